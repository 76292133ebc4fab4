"""A model as an ONNX graph, for programs that run it without torch.

Its inputs are those that the exported tokenizer makes, of any batch and length, its output the logits. It has no cache: to go on
with a text is to compute it all again.
"""

import importlib.util
import inspect
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

from jalm import Fault

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NAME = "model.onnx"
TOLERANCE = 1e-3  # between its logits and the model's; float32 in another order of sums differs by 1e-5
NEEDED = ("onnx", "onnxscript", "onnxruntime")


class GraphError(Fault):
    """A graph that cannot be made, or does not compute what its model does."""


class Logits(torch.nn.Module):
    """A model as a function of tensors in an order."""

    def __init__(self, model: PreTrainedModel, inputs: list[str]) -> None:
        super().__init__()
        self.model, self.inputs = model, inputs
        self.options = {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        """Logits, shape (batch, tokens, pieces)."""
        return self.model(**dict(zip(self.inputs, tensors, strict=True)), **self.options).logits


def write(model: PreTrainedModel, tokenizer: "PreTrainedTokenizerBase", path: Path) -> None:
    """Write the graph of a model; its weights too, in a file beside it from some 1.5 GB on.

    Raises:
        GraphError: a package is missing, or the exporter cannot follow the model.
    """
    if lacking := [name for name in NEEDED if not importlib.util.find_spec(name)]:
        raise GraphError(f"onnx is true, but there is no {', '.join(lacking)}; pip install it, or set onnx to false")
    names = tokenizer.model_input_names
    ids = torch.arange(7, 15).repeat(2, 1)  # any pieces
    example = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of packages that it does without
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                Logits(model, names).eval(),
                tuple(example[name] for name in names),
                input_names=names,
                output_names=["logits"],
                dynamic_shapes=(tuple({0: "batch", 1: "tokens"} for _ in names),),
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise GraphError(
                f"a {model.config.model_type} of these sizes does not become an ONNX graph "
                f"({str(error).strip().splitlines()[0]}); set onnx to false"
            ) from None
    given, made = program.model.graph.inputs[0], program.model.graph.outputs[0]
    made.shape = type(made.shape)([*given.shape, made.shape[2]])  # the exporter may have made a formula of it
    for node in program.model.graph.all_nodes():  # which line of which file on this machine it comes from
        node.metadata_props.clear()
        node.doc_string = None
    program.save(path)


def check(path: Path, model: PreTrainedModel, tokenizer: "PreTrainedTokenizerBase", texts: list[str]) -> float:
    """Compare the logits of a graph with those of its model: texts of several lengths, alone and two at once.

    Returns:
        The largest difference.

    Raises:
        GraphError: it is more than TOLERANCE.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    whole = "\n".join(texts)
    most = min(tokenizer.model_max_length, len(tokenizer(whole, verbose=False)["input_ids"]))
    least = 1 + tokenizer.num_special_tokens_to_add()  # nothing is cut to fewer
    lengths = sorted({least, least + 1, (least + most) // 2, most})
    cases = [([whole], length) for length in lengths] + [([texts[0], texts[0][: len(texts[0]) // 2]], most)]
    worst = 0.0
    for batch, length in cases:
        inputs = tokenizer(batch, return_tensors="pt", padding=True, truncation=True, max_length=length)
        with torch.no_grad():
            want = model(**inputs).logits
        (have,) = session.run(["logits"], {name: tensor.numpy() for name, tensor in inputs.items()})
        there = inputs["attention_mask"].bool()
        difference = (torch.from_numpy(have) - want)[there].abs().max().item()
        if not difference <= TOLERANCE:
            shape = " x ".join(map(str, there.shape))
            raise GraphError(
                f"logits of {path.name} differ from the model's by up to {difference}, more than {TOLERANCE}, on {shape} tokens"
            )
        worst = max(worst, difference)
    return worst
