"""time_serving.py HADAL MODEL [ROUNDS]: what the server costs, and what the prefix cache gives.

Alternates `HADAL bench infer` (64 sequences of 64 + 128 tokens) with 64 streaming clients of `HADAL serve` that ask for the
same, and prints tokens per second while all of them generate. Then it sends a prompt of 4096 tokens, once new and once more,
and prints the time to the first token. The client reads sockets in one thread and only counts events, since it shares the
processor with the server.
"""
import json, random, re, selectors, socket, statistics, subprocess, sys, time

hadal, model = sys.argv[1:3]
rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 3
STREAMS, PROMPT, NEW, LONG = 64, 64, 128, 4096
vocabulary = json.load(open(model + "/config.json"))["vocab_size"]
draw = random.Random(1)


def ids(n):
    return [draw.randrange(3, vocabulary) for _ in range(n)]


class Server:
    def __enter__(self):
        command = [hadal, "serve", model, "--port", "0", "--log", "off", "--speculation", "off", "--cache-tokens", "65536"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            if found := re.match(r"listening on http://([\d.]+):(\d+)", line):
                self.address = (found[1], int(found[2]))
                return self
        sys.exit("the server did not start")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def ask(self, prompt, new):
        body = json.dumps({"prompt": prompt, "max_tokens": new, "temperature": 0, "ignore_eos": True, "stream": True}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode()
        connection = socket.create_connection(self.address)
        connection.sendall(head + body)
        return connection


def over_http(server):
    """Tokens per second of all streams, from the moment when each has begun."""
    poll = selectors.DefaultSelector()
    counts = {}
    for _ in range(STREAMS):
        connection = server.ask(ids(PROMPT), NEW)
        connection.setblocking(False)
        counts[connection] = 0
        poll.register(connection, selectors.EVENT_READ)
    begun, start, at_start, last = set(), None, 0, 0.0
    while poll.get_map():
        # A client that wakes for each event would take more of the processor than the server.
        time.sleep(0.05)
        for key, _ in poll.select():
            data = key.fileobj.recv(1 << 16)
            if not data:
                poll.unregister(key.fileobj)
                key.fileobj.close()
                continue
            counts[key.fileobj] += data.count(b'"text":')
            last = time.monotonic()
            if counts[key.fileobj]:
                begun.add(key.fileobj)
            if start is None and len(begun) == STREAMS:
                start, at_start = last, sum(counts.values())
    return (sum(counts.values()) - at_start) / (last - start)


def alone():
    command = [hadal, "bench", "infer", model, "--prompt", str(PROMPT), "--generate", str(NEW), "--batch", str(STREAMS),
               "--repeat", "1", "--speculation", "off", "--json"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["results"][0]["decode"]


def first_token(server, prompt):
    start = time.monotonic()
    with server.ask(prompt, 1) as connection:
        data = b""
        while b'"text":' not in data:
            data += connection.recv(1 << 16)
        return time.monotonic() - start


with Server() as server:
    pairs = []
    for _ in range(rounds):
        pairs.append((over_http(server), alone()))
        print("64 streams: {:.0f} tokens/s over HTTP, {:.0f} of the engine alone".format(*pairs[-1]), flush=True)
    print(f"median of the ratios {statistics.median(h / a for h, a in pairs):.3f}")
    for _ in range(rounds):
        prompt = ids(LONG)
        cold, again = first_token(server, prompt), first_token(server, prompt)
        print(f"{LONG} tokens: first token after {cold:.3f} s, and {again:.4f} s when repeated ({100 * again / cold:.1f}%)", flush=True)
