"""terminal_picture.py OUT.svg SECONDS COLUMNSxROWS COMMAND...: pictures of what COMMAND shows in a terminal.

Runs COMMAND in a pseudo-terminal and stores its screen every SECONDS as OUT-1.svg, OUT-2.svg and so on, as long as the screen
has frames. Frames, bars and braille dots become shapes, so that a picture does not depend on a font. Needs `pip install pyte`.
The picture in README.md was made by

    python3 scripts/terminal_picture.py live.svg 20 100x34 target/release/hadal quickstart
"""
import fcntl, os, pty, select, struct, sys, termios, time
from xml.sax.saxutils import escape

import pyte

CELL, LINE, SIZE, MARGIN, BAR = 8.4, 17, 14, 14, 30
COLOURS = {"default": "#d7dae0", "black": "#3b4048", "red": "#f0716b", "green": "#8cc570", "brown": "#e2b84d",
           "blue": "#4f9df0", "magenta": "#c98be0", "cyan": "#4fb7c4", "white": "#d7dae0", "background": "#1d2026"}
# pyte gives the first colours of the palette of 256 as numbers.
PALETTE = ["000000", "cd0000", "00cd00", "cdcd00", "0000ee", "cd00cd", "00cdcd", "e5e5e5"]
COLOURS.update(zip(PALETTE, ["#3b4048", "#f0716b", "#8cc570", "#e2b84d", "#4f9df0", "#c98be0", "#4fb7c4", "#d7dae0"]))
# Which of left, right, up, down a frame's character joins.
FRAME = {"─": "lr", "│": "ud", "┌": "rd", "┐": "ld", "└": "ru", "┘": "lu", "├": "udr", "┤": "udl", "┬": "lrd", "┴": "lru"}
# Bits of a braille character: column and row of the dot.
DOTS = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (0, 3), (1, 3)]


def colour(name, other):
    return COLOURS.get(name, f"#{name}" if len(name) == 6 else COLOURS[other])


class Shapes:
    """Bars, frames and dots of a screen: neighbouring bars are joined, and what has one colour is one path."""

    def __init__(self):
        self.bars, self.paths = [], {}

    def bar(self, x, y, width, height, fill):
        fill = "#2c62ab" if fill == COLOURS["blue"] else fill  # Letters stand on it.
        last = self.bars[-1] if self.bars else None
        if last and last[1:2] + last[3:] == [y, height, fill] and abs(last[0] + last[2] - x) < 1e-6:
            last[2] += width
        else:
            self.bars.append([x, y, width, height, fill])

    def line(self, path, fill, style):
        self.paths.setdefault((fill, style), []).append(path)

    def add(self, c, x, y, fill):
        """Draws a character; false if it is a letter."""
        code = ord(c)
        if c in FRAME:
            mx, my = x + CELL / 2, y + LINE / 2
            ends = {"l": (x, my), "r": (x + CELL, my), "u": (mx, y), "d": (mx, y + LINE)}
            path = "".join(f"M{mx:.1f} {my:.1f}L{ends[d][0]:.1f} {ends[d][1]:.1f}" for d in FRAME[c])
            self.line(path, fill, 'stroke-opacity=".5" stroke-linecap="square"')
        elif 0x2581 <= code <= 0x2588:
            height = LINE * (code - 0x2580) / 8
            self.bar(x, y + LINE - height, CELL, height, fill)
        elif 0x2589 <= code <= 0x258F:
            self.bar(x, y, CELL * (0x2590 - code) / 8, LINE, fill)
        elif 0x2800 <= code <= 0x28FF:
            dots = [DOTS[bit] for bit in range(8) if code - 0x2800 >> bit & 1]
            path = "".join(f"M{x + CELL * (1 + 2 * i) / 4:.1f} {y + LINE * (1 + 2 * j) / 8:.1f}h0" for i, j in dots)
            self.line(path, fill, 'stroke-width="2.6" stroke-linecap="round"')
        elif c == "•":
            self.line(f"M{x + CELL / 2:.1f} {y + LINE / 2:.1f}h0", fill, 'stroke-width="6" stroke-linecap="round"')
        else:
            return False
        return True

    def svg(self):
        for x, y, width, height, fill in self.bars:
            yield f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{fill}"/>'
        for (fill, style), paths in self.paths.items():
            yield f'<path stroke="{fill}" {style} d="{"".join(paths)}"/>'


def letters(runs, x, y, letter, style):
    """Adds a letter to the last run, or begins a new one: after two spaces, or in another style."""
    last = runs[-1] if runs else None
    gap = round((x - last["end"]) / CELL) if last else 2
    if last and last["y"] == y and last["style"] == style and 0 <= gap < 2:
        last["text"] += " " * gap + letter
        last["end"] = x + CELL
    else:
        runs.append({"x": x, "y": y, "end": x + CELL, "text": letter, "style": style})


def picture(screen, dim):
    width, height = screen.columns * CELL + 2 * MARGIN, screen.lines * LINE + 2 * MARGIN + BAR
    shapes, runs = Shapes(), []
    for row in range(screen.lines):
        y = BAR + MARGIN + row * LINE
        for column in range(screen.columns):
            char, x = screen.buffer[row][column], MARGIN + column * CELL
            front, back = colour(char.fg, "default"), None if char.bg == "default" else colour(char.bg, "background")
            if char.reverse:
                front, back = back or COLOURS["background"], front
            if back:
                shapes.bar(x, y, CELL, LINE, back)
            if not shapes.add(char.data, x, y, front) and char.data.strip():
                letters(runs, x, y, char.data, (front, char.bold, (row, column) in dim))
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" height="{height}" '
           f'font-family="DejaVu Sans Mono,Menlo,Consolas,monospace" font-size="{SIZE}" fill="none">',
           f'<rect x=".5" y=".5" width="{width - 1:.0f}" height="{height - 1}" rx="9" fill="{COLOURS["background"]}" stroke="#5a606b"/>']
    out += [f'<circle cx="{20 + 19 * i}" cy="20" r="6" fill="{fill}"/>' for i, fill in enumerate(["#f0716b", "#e2b84d", "#8cc570"])]
    out += shapes.svg()
    for run in runs:
        fill, bold, faint = run["style"]
        more = (' font-weight="bold"' if bold else "") + (' fill-opacity=".6"' if faint else "")
        out.append(f'<text x="{run["x"]:.1f}" y="{run["y"] + 13}" textLength="{len(run["text"]) * CELL:.1f}" fill="{fill}"{more}>{escape(run["text"])}</text>')
    return "\n".join(out) + "\n</svg>\n"


class Screen(pyte.Screen):
    """pyte knows no faint text: it is noted here."""

    def __init__(self, *size):
        self.faint, self.dim = False, set()
        super().__init__(*size)

    def select_graphic_rendition(self, *attrs, **kwargs):
        for a in attrs or (0,):
            self.faint = True if a == 2 else False if a in (0, 22) else self.faint
        super().select_graphic_rendition(*attrs, **kwargs)

    def draw(self, data):
        at = self.cursor.y, self.cursor.x
        super().draw(data)
        for column in range(at[1], at[1] + len(data)):
            (self.dim.add if self.faint else self.dim.discard)((at[0], column))


def main():
    out, seconds, size, *command = sys.argv[1:]
    columns, rows = map(int, size.split("x"))
    screen = Screen(columns, rows)
    stream = pyte.ByteStream(screen)
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(TERM="xterm-256color", COLUMNS=str(columns), LINES=str(rows))
        os.execvp(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    last, number = time.monotonic(), 0
    while True:
        if select.select([terminal], [], [], 0.5)[0]:
            try:
                data = os.read(terminal, 65536)
            except OSError:
                break
            if not data:
                break
            before, enter, after = data.partition(b"\x1b[?1049h")
            stream.feed(before)
            if enter:  # The alternate screen, which begins empty; pyte has only one.
                screen.reset()
                stream.feed(after)
        if time.monotonic() - last >= float(seconds) and "┌" in "".join(screen.display):
            last, number = time.monotonic(), number + 1
            with open(out.replace(".svg", f"-{number}.svg"), "w") as file:
                file.write(picture(screen, screen.dim))
    os.waitpid(child, 0)


if __name__ == "__main__":
    main()
