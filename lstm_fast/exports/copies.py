"""Copies of a model with Keras's own layers, as a `.keras` file: to change the dtype, or for another process."""

import json
import pathlib
import zipfile
from collections.abc import Sequence
from typing import Any

import keras

from lstm_fast import convert, layers


def needed(model: Any, dtype: str) -> bool:
    """Whether a layer of the model computes or stores floating-point numbers in another dtype."""
    return any(
        "float" in found and found != dtype
        for part in layers.parts_of(model)
        for found in (part.compute_dtype, part.variable_dtype)
        if isinstance(found, str)
    )


def save(model: Any, path: pathlib.Path, dtype: str) -> None:
    """Saves a model as a `.keras` file that does not need this package, and computes in `dtype`.

    The dtype changes in the configuration. The weights get it when they are loaded.
    """
    written = path.with_name("as_it_is.keras")
    with convert.as_keras(model):
        model.save(written)
    with zipfile.ZipFile(written) as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.infolist():
            content = source.read(entry)
            if entry.filename == "config.json":
                config = json.loads(content)
                # The loss and the optimizer may need code of the user, and the file does not need them.
                config.pop("compile_config", None)
                content = json.dumps(_in_dtype(config, dtype)).encode()
            target.writestr(entry, content)
    written.unlink()


def _in_dtype(config: Any, dtype: str) -> Any:
    """Returns a configuration with `dtype` in the place of all floating-point dtypes and policies."""
    if isinstance(config, list):
        return [_in_dtype(value, dtype) for value in config]
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "DTypePolicy":
        return {**config, "config": {**config["config"], "name": dtype}}
    return {
        key: dtype if key == "dtype" and isinstance(value, str) and "float" in value else _in_dtype(value, dtype)
        for key, value in config.items()
    }


def load(path: pathlib.Path, classes: Sequence[type] = ()) -> Any:
    """Loads a file that `save` has written.

    Args:
        path: The file.
        classes: Classes of layers that Keras may not know by the names in the file.
    """
    known = {cls.__name__: cls for cls in classes}
    # We have written the file, so the code in it is the user's own: `safe_mode` is for files from strangers.
    return keras.models.load_model(path, custom_objects=known, compile=False, safe_mode=False)


def own_classes(model: Any) -> list[type]:
    """Returns the classes in a model that are neither Keras's nor this package's."""
    parts = [type(part) for part in layers.parts_of(model)]
    return [
        cls for cls in dict.fromkeys(parts) if not cls.__module__.startswith("keras.") and "of_keras" not in vars(cls)
    ]
