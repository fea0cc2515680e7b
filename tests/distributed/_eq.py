import sys, time

sys.path[:0] = ["."]
import torch
from tests.distributed.cases import *
from tests.distributed.processes import *
from tests.distributed.test_equivalence import TOLERANCE


def main():
    size = int(sys.argv[1])
    cases = MATRIX + VARIANTS
    sel = sys.argv[2] if len(sys.argv) > 2 else None
    if sel:
        cases = [c for c in cases if eval(sel, {"c": c})]
    bad = 0
    t = time.time()
    r = on_ranks(size, attempt, cases)
    print("time", time.time() - t)
    for x in r:
        if isinstance(x, RankFailure):
            print(x.text)
            return
    for i, c in enumerate(cases):
        outs = [x[i] for x in r]
        f = [o for o in outs if isinstance(o, str)]
        if f:
            print("FAIL", c, "\n", f[0][-900:])
            bad += 1
            continue
        w = alone(c, size)
        for k, o in enumerate(outs):
            if o.keys() != w.keys():
                print("KEYS", c, o.keys() ^ w.keys())
                break
            e = max(((o[n] - w[n]).abs().max().item() if w[n].numel() else 0, n) for n in w)
            if e[0] > 1e-9:
                print("DIFF", k, e, c)
                bad += 1
                break
    print(len(cases), "cases", bad, "bad")


def attempt(rank, size, cases):
    import traceback

    out = []
    for c in cases:
        try:
            out.append(run(c, rank, size, together=True))
        except Exception:
            out.append(traceback.format_exc())
    return out


if __name__ == "__main__":
    main()
