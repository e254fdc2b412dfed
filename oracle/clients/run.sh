#!/usr/bin/env bash
# Runs all clients against a server: run.sh HADAL MODEL
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
hadal=$(realpath "$1")
model=$(realpath "$2")
[ -f "$model/config.json" ] || model=$model/model
clients=$(realpath -m "${CLIENTS:-$here/../../target/clients}")
work=$(mktemp -d)
server=
finish() {
  [ -z "$server" ] || kill "$server" 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT

mkdir -p "$clients"
if [ ! -f "$clients/ready" ]; then
  python3 -m venv "$clients/venv"
  "$clients/venv/bin/pip" -q install openai==3.57.0 anthropic==2.14.0 langchain-openai==1.7.4 "lm-eval[api]==0.4.13" transformers
  (cd "$clients" && npm install --silent --no-fund --no-audit openai@6 zod@4)
  touch "$clients/ready"
fi
python=$clients/venv/bin/python

# The model's files with a template that has thoughts and calls of tools.
mkdir "$work/clients"
ln -s "$model"/* "$work/clients/"
rm -f "$work/clients/chat_template.jinja"
cp "$here/chat_template.jinja" "$work/clients/"
"$hadal" serve "$work/clients" --port 0 --cache-tokens 16384 --log json >"$work/out" 2>"$work/log" &
server=$!
for _ in $(seq 600); do
  grep -q '^listening on ' "$work/out" && break
  kill -0 "$server" || { cat "$work/log"; exit 1; }
  sleep 0.1
done
url=$(sed -n 's/^listening on //p' "$work/out")
echo "== server: $url"
export HADAL_URL=$url HADAL_MODEL=clients HADAL=$hadal HADAL_FOLDER=$work/clients WORK=$work

echo "== curl" && bash "$here/curl.sh"
echo "== openai for Python" && "$python" "$here/openai_python.py"
echo "== openai for Node" && cp "$here/openai_node.mjs" "$clients/" && node "$clients/openai_node.mjs"
echo "== responses: openai for Python and Node" && "$python" "$here/responses.py"
cp "$here/responses.mjs" "$clients/" && node "$clients/responses.mjs"
echo "== messages: anthropic for Python" && "$python" "$here/messages.py"
echo "== LangChain" && "$python" "$here/langchain_client.py"
echo "== lm-eval" && "$python" "$here/lm_eval_client.py"

kill -TERM "$server"
wait "$server" || { echo "the server ended with an error"; cat "$work/log"; exit 1; }
server=
if grep -E '"level":"ERROR"|panicked' "$work/log"; then exit 1; fi
echo "== all clients passed"
