"""Which modules of the factors the names in another library's checkpoint are.

Mostly the same names. The text model of a model that reads images has another one in transformers, and so in PEFT
(adapters/factors/transformers_model.py): `language_model.model.layers.0` is `model.language_model.layers.0` there.
"""

from collections.abc import Iterable, Mapping, Sequence

_LAYERS = "layers."


def served_names(names: Iterable[str], modules: Sequence[str]) -> Mapping[str, str]:
    """Of those `names` of a checkpoint that are `modules` of the factors: which. When all its layers are of one stack,
    that is the text model, whatever it is called; beside the layers of a vision tower only the factors' own names are.
    """
    parts = {name: name.partition(_LAYERS) for name in names}
    stacks = {stack for stack, found, _ in parts.values() if found}
    if len(stacks) > 1:
        return {module: module for module in modules if module in parts}
    known = {module.partition(_LAYERS)[2]: module for module in modules}
    return {name: known[within] for name, (_, _, within) in parts.items() if within in known}
