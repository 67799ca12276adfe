"""The table that `model.summary()` prints."""

from __future__ import annotations

from typing import Any

HEADER = ("Layer (type)", "Output shape", "Mask", "Weights")


def summary_table(model: Any) -> str:
    """A plain-text table of the model's layers, and its number of weights."""
    rows = [HEADER]
    shape, masked = model.known_input_shape(), False
    for layer in model.layers:
        shape = None if shape is None else layer.compute_output_shape(shape)
        masked, said = mask_word(layer, masked)
        count = f"{layer.count_params():,}" if layer.built else "not built"
        rows.append((f"{layer.name} ({type(layer).__name__})", shape_word(shape), said, count))
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    lines = [
        "  ".join(
            cell.rjust(width) if column == 3 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines = [f'Model "{model.name}"', rule, lines[0], rule, *lines[1:], rule]
    if model.built:
        total = model.count_params()
        trainable = sum(int(weight.size) for weight in model.trainable_params.values())
        size = sum(int(weight.nbytes) for weight in model.params.values())
        lines.append(f"Total weights: {total:,} ({size / 1e6:.2f} MB)")
        if trainable != total:
            lines.append(f"Trainable: {trainable:,}   frozen: {total - trainable:,}")
    return "\n".join(lines)


def mask_word(layer: Any, masked: bool) -> tuple[bool, str]:
    """Whether a mask leaves the layer, and a word on what happened to it."""
    if getattr(layer, "mask_zero", False) or type(layer).__name__ == "Masking":
        return True, "made"
    if not masked:
        return False, ""
    if not layer.supports_masking:
        return False, "refused"
    if type(layer).__name__ == "DropMask":
        return False, "dropped"
    if getattr(layer, "return_sequences", False):
        return True, "used, kept"
    if hasattr(layer, "return_sequences") or "Pooling" in type(layer).__name__:
        return False, "used"
    return True, "kept"


def shape_word(shape: Any) -> str:
    if shape is None:
        return "?"
    return "(" + ", ".join("–" if size is None else str(size) for size in shape) + ")"
