#!/usr/bin/env bash
# curl against $HADAL_URL.
set -euo pipefail
root=${HADAL_URL%/v1}
say() { curl -sS --fail-with-body --max-time 120 "$@"; }
has() { grep -q -- "$1" || { echo "no \`$1\` in the answer"; exit 1; }; }

say "$root/health" | has '"ok"'
say "$root/ready" | has '"ready"'
say "$root/metrics" | has '^hadal_cache_pages_free '
say "$HADAL_URL/models" | has "\"id\":\"$HADAL_MODEL\""
say "$root/tokenizer_info" | has eos_token
say "$HADAL_URL/completions" -d '{"prompt": "fn main() {", "max_tokens": 8}' | has '"text_completion"'
say -N "$HADAL_URL/completions" -d '{"prompt": "fn main() {", "max_tokens": 8, "stream": true}' | has '^data: \[DONE\]'
say "$HADAL_URL/chat/completions" -H 'Content-Type: application/json' \
  -d '{"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}' | has '"chat.completion"'
# Bodies in chunks, and with Expect.
printf '{"prompt": "a", "max_tokens": 1}' | say "$HADAL_URL/completions" -H 'Transfer-Encoding: chunked' --data-binary @- | has choices
say "$HADAL_URL/completions" -H 'Expect: 100-continue' -d '{"prompt": "a", "max_tokens": 1}' | has choices
# Mistakes.
status() { curl -sS -o /dev/null -w '%{http_code}' --max-time 120 "$@"; }
[ "$(status "$HADAL_URL/completions" -d '{')" = 400 ]
[ "$(status "$HADAL_URL/completions" -d '{"prompt": "a", "temperature": "hot"}')" = 400 ]
[ "$(status "$HADAL_URL/completions")" = 405 ]
[ "$(status "$root/nothing")" = 404 ]
head -c 20000000 /dev/zero | [ "$(status "$HADAL_URL/completions" --data-binary @-)" = 413 ]
# A client that goes.
timeout 0.3 curl -sS -N "$HADAL_URL/completions" -d '{"prompt": "a", "max_tokens": 1000, "ignore_eos": true, "stream": true}' >/dev/null || true
for _ in $(seq 100); do
  say "$root/ready" | grep -q '"running":0' && break
  sleep 0.1
done
say "$root/ready" | has '"running":0'
