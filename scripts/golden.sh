#!/usr/bin/env bash
# Do two versions of the program compute the same bits? Trains, exports, evaluates and generates with both on this
# machine, on every instruction path and in every precision, and compares what must not change: losses, balance losses,
# gradient norms, expert loads, and the bytes of exported models. Times and memory are left out.
#
#   scripts/golden.sh OLD NEW [PATH...]
#
# OLD and NEW are two `hadal` programs. PATH is an instruction path (avx512bf16, avx2, portable; default: all three).
# Results of OLD are kept in target/golden, by the program's checksum, so that a second call runs NEW alone.
set -euo pipefail
[[ $# -ge 2 ]] || { sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
old=$(realpath "$1") new=$(realpath "$2")
shift 2
paths=("$@")
[[ ${#paths[@]} -gt 0 ]] || paths=(avx512bf16 avx2 portable)
kept=$here/../target/golden
mkdir -p "$kept"

# Sentences from a fixed list of words, by a linear congruential generator.
make_text() {
  mkdir -p "$1/text"
  for file in 1 2 3 4 5 6; do
    awk -v seed="$file" 'BEGIN {
      n = split("the of model token expert row weight gradient we sum add route loss step and to a norm query key value latent head layer", word, " ")
      x = seed * 7919
      for (line = 0; line < 60; line++) {
        s = ""
        for (i = 0; i < 11; i++) { x = (x * 1103515245 + 12345) % 2147483648; s = s (i ? " " : "") word[1 + int(x / 65536) % n] }
        print s "."
        if (line % 7 == 6) print ""
      }
    }' > "$1/text/part-$file.txt"
  done
}

# The numbers of a run without times, memory and rates, a line a step.
numbers() {
  sed -E 's/"(elapsed|tokens_per_second|mfu|loader_wait|memory)":[^,}]*,?//g' "$1/metrics.jsonl"
}

# Everything that one program makes on one path: text files and checksums in the folder $2.
record() {
  local hadal=$1 out=$2 path=$3 precision run work
  work=$(mktemp -d)
  mkdir -p "$out"
  make_text "$work"
  export HADAL_ISA=$path
  for precision in f32 bf16 fp8 tied; do
    run=run-$precision
    local set=(--set run.precision="$precision")
    # One head and table, a full query, softmax scores.
    [[ $precision != tied ]] || set=(--set model.tie_word_embeddings=true --set model.q_lora_rank=none --set model.scoring_func=softmax)
    (cd "$work" && "$hadal" pretrain "$here/golden.toml" --plain --set run.out="$run" "${set[@]}") > "$work/log" 2>&1 ||
      { tail -n 5 "$work/log"; exit 1; }
    local longer=$run/extension-1
    # Its name before `[[stage]]` became `[[extension]]`.
    [[ -d $work/$longer ]] || longer=$run/stage-1
    for part in "$run" "$longer"; do
      local name=$run
      [[ $part == "$run" ]] || name=$run-extension-1
      numbers "$work/$part" > "$out/$name.metrics"
      for what in "--dtype bf16" "--dtype f32" "--dtype f32 --ema" "--dtype fp8"; do
        rm -rf "$work/exported"
        # shellcheck disable=SC2086
        "$hadal" export "$work/$part" --out "$work/exported" $what > /dev/null
        (cd "$work/exported" && sha256sum -- *.safetensors config.json tokenizer.json) | sed "s/\$/  $what/" >> "$out/$name.sums"
      done
      (cd "$work/$part/model" && sha256sum -- *.safetensors) >> "$out/$name.sums"
    done
    "$hadal" eval "$work/$run" "$work/text" --window 64 --json 2> /dev/null | sed -E 's/"[a-z_]*(seconds|per_second)":[^,}]*,?//g' > "$out/$run.eval"
    "$hadal" generate "$work/$longer" "the model of" -n 40 --temperature 0 > "$out/$run.greedy" 2> /dev/null
    "$hadal" generate "$work/$longer" "the model of" -n 40 --seed 3 > "$out/$run.sampled" 2> /dev/null
    echo "[[1,2,3,4,5,6,7,8,9,10,11,12],[20,21,22,23,24,25,26,27,28,29,30,31]]" > "$work/ids.json"
    "$hadal" dump "$work/$run" --ids "$work/ids.json" --grads --out "$work/dump.safetensors" > /dev/null
    (cd "$work" && sha256sum dump.safetensors) > "$out/$run.dump"
  done
  rm -rf "$work"
}

status=0
for path in "${paths[@]}"; do
  first=$kept/$(sha256sum "$old" | cut -c1-16)-$(sha256sum "$here/golden.toml" "$here/golden.sh" | sha256sum | cut -c1-8)-$path
  second=$kept/new-$path
  if [[ ! -e $first/done ]]; then
    rm -rf "$first"
    record "$old" "$first" "$path"
    touch "$first/done"
  fi
  rm -rf "$second"
  record "$new" "$second" "$path"
  touch "$second/done"
  if diff -rq "$first" "$second" > "$kept/difference"; then
    echo "$path: $(ls "$first" | wc -l) results equal to the bit"
  else
    echo "$path: DIFFERENT"
    cat "$kept/difference"
    status=1
  fi
done
exit $status
