"""What the training benchmark found, as Markdown."""

from typing import Any

from carot_lib.report.names import RUN_NAMES


def report(result: dict[str, Any]) -> str:
    """The tables of one run of `benchmarks.training`."""
    host = result["machine"]
    lines = [
        f"{host['processor']}, {host['cores']} cores, {result['threads']} threads; GPU: "
        f"{result['gpu'] or 'none'}."
    ]
    for case in result["cases"]:
        lines += ["", *_case(case)]
    if result["gpu"] is None:
        lines += [
            "",
            "ViT-B/16 on a GPU (bf16-mixed, batch of 512; aims: 45 % of the matrix product and "
            "2,000 images/s for CaRot): not measured.",
        ]
    return "\n".join([*lines, "", *_start(result["start"])]) + "\n"


def _case(case: dict[str, Any]) -> list[str]:
    """A table of all candidates, what its ratios are, and a table of the parts of a step."""
    product = case["product_gigaflops"]
    head = [case["model"], f"batch of {case['batch_size']}", case["precision"], case["device"]]
    lines = [
        f"| {', '.join(head)} | ms a step | images/s | memory, GB | GFLOP a step | GFLOP/s "
        "| of the matrix product |",
        "| :-- | --: | --: | --: | --: | --: | --: |",
    ]
    for row in case["rows"]:
        lines.append(
            f"| {RUN_NAMES[row['run']]}, {row['way']} | {_digits(1000 * row['seconds_per_step'])} "
            f"| {_digits(row['images_per_second'])} | {row['gigabytes']:.2f} "
            f"| {_digits(row['gigaflop_per_step'])} | {_digits(row['gigaflops'])} "
            f"| {row['share_of_product']:.0%} |"
        )
    ratios = [f"{RUN_NAMES[run]} {ratio:.2f}" for run, ratio in case["plain_to_ours"].items()]
    losses = [row["loss"] for row in case["rows"]]
    apart = max(abs(ours - plain) for ours, plain in zip(losses[::2], losses[1::2], strict=True))
    lines += [
        "",
        f"A matrix product: {_digits(product)} GFLOP/s. A step of CaRot takes "
        f"{case['carot_to_ft']:.2f} times one of FT (aim: at most 1.4; the public codes: 1.81). "
        f"The plain way takes {', '.join(ratios)} times as long as ours (aim on the miniature's "
        f"model: at least 1.5). Losses of both ways after {case['steps']} steps differ by "
        f"{apart:.0e} at most.",
        "",
        "| Part of a CaRot step, ours | ms | share |",
        "| :-- | --: | --: |",
    ]
    whole = sum(case["parts"].values())
    lines += [
        f"| {part} | {_digits(1000 * seconds)} | {seconds / whole:.0%} |"
        for part, seconds in case["parts"].items()
    ]
    return lines


def _start(start: dict[str, Any]) -> list[str]:
    """A table of what comes before the first image is read."""
    lines = [
        f"| Start on {start['images'] / 1e6:.2f} M images, CaRot | s |",
        "| :-- | --: |",
        *(f"| {part} | {seconds:.1f} |" for part, seconds in start["parts"].items()),
        f"| all (aim: under 30) | {start['seconds']:.1f} |",
    ]
    return [
        *lines,
        "",
        f"Of them on the processor: {start['cpu_seconds']:.1f} s. Memory: "
        f"{start['gigabytes']:.2f} GB (aim: under 1) beyond the "
        f"{start['libraries_gigabytes']:.2f} GB of Python and its libraries.",
    ]


def _digits(value: float) -> str:
    """A number with three digits, or all before the point."""
    return f"{value:,.{max(0, 2 - len(str(int(value))) + 1)}f}"
