"""What the benchmark says: figures as they come, and whether each bar was met."""

verdicts = []


def bar(name, met, figure):
    verdicts.append((name, bool(met), figure))
    print(f"  {'met   ' if met else 'NOT MET'} {name}: {figure}", flush=True)


def note(text=""):
    print(text, flush=True)
