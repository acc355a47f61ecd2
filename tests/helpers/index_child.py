"""Changes an index for ever, in an order that a seed decides, until it is killed. Run by test_index_kill.py.

Prints the number of each step before and after it is committed. ``plan`` gives what each step should leave behind.
"""

import json
import random
import sys

from crashes import HashEmbedder
from ctxcompress_integrations.index import CompressedIndex
from ctxcompress_integrations.records import Passage


def plan(state, step):
    """What step number ``step`` does to ``state`` (text by id): its name, its argument, and the state after it."""
    dice = random.Random(step)
    name = dice.choice(["add", "add", "add", "delete", "flush", "compact"])
    ids = [str(dice.randrange(200)) for _ in range(dice.randrange(1, 40))]
    if name == "add":
        added = {id_: f"text {dice.randrange(10**6)} " * dice.randrange(1, 30) for id_ in ids}
        return name, added, state | added
    if name == "delete":
        return name, ids, {id_: text for id_, text in state.items() if id_ not in ids}
    return name, None, state


def run(index, state, step):
    name, argument, after = plan(state, step)
    if name == "add":
        index.add([Passage(id_, text, metadata={"step": step}) for id_, text in argument.items()])
    elif name == "delete":
        index.delete(argument)
    else:
        getattr(index, name)()
    return after


def main(path, step, state):
    print("opening", flush=True)
    index = CompressedIndex.open(path, embedder=HashEmbedder())
    while True:
        print("begin", step, flush=True)
        state = run(index, state, step)
        print("done", step, flush=True)
        step += 1


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), json.loads(sys.stdin.readline()))
