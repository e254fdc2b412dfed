#!/usr/bin/env bash
# Shows that fine-tuning teaches: sft_proof.sh HADAL MODEL [CONVERSATIONS [OUT]]
# For three seeds, a pre-trained MODEL (the quickstart's) learns to put three numbers or words in order, and is asked 512
# questions that are in no training set, before and after.
set -euo pipefail
hadal=$(realpath "$1") model=$(realpath "$2") conversations=${3:-30000} out=${4:-runs/sft-proof}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
mkdir -p "$out"
"$hadal" task show sorting | sed 's/^task: .*/task: sorting_three/; s/difficulty: 2/difficulty: 1/; s/num_fewshot: 2/num_fewshot: 0/' >"$out/task.yaml"
ask() { "$hadal" eval "$1" "$out/task.yaml" --apply-chat-template --out "$2" | grep correct; }
echo "before: $(ask "$model" "$out/before")"
for seed in 1 2 3; do
  "$hadal" task chats "$out/task.yaml" --count "$conversations" --seed "$seed" --out "$out/chats-$seed.jsonl" >/dev/null
  "$hadal" sft "$root/recipes/sft.toml" --plain --set start.model="$model" --set "data.train=[\"$out/chats-$seed.jsonl\"]" \
    --set data.seq_len=512 --set batch.micro_batch=4 --set schedule.epochs=1 --set schedule.peak_lr=2e-3 \
    --set schedule.lr_end=1e-5 --set run.seed="$seed" --set run.out="$out/seed-$seed" >"$out/seed-$seed.log"
  echo "after, seed $seed: $(ask "$out/seed-$seed" "$out/after-$seed")"
done
