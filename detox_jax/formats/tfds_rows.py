"""TFDS: data sets by name or by the directory of one version, read without TensorFlow.

TFDS writes records of TensorFlow's format, `length, its checksum, bytes, their checksum`, and
beside them features.json, which says what the bytes are.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from detox_jax.errors import Unavailable, UserError, in_one_line, network_trouble, unread

SCHEME = "tfds://"
FEATURES = "features.json"
_NAMED = ".tfrecord"
_HEAD = struct.Struct("<QI")
_SUM = struct.Struct("<I")


def is_records(file: epath.Path) -> bool:
    """Whether a file is one of TFDS's: by its name, and what lies beside it."""
    return _NAMED in file.name and (file.parent / FEATURES).exists()


def directory(source: str) -> tuple[epath.Path, str]:
    """Where a data set is that a name such as `tfds://civil_comments:1.2.4` means.

    It is downloaded and prepared by TFDS where it is not there yet (`TFDS_DATA_DIR`).

    Returns:
      The directory of its version, and the name with the version.

    Raises:
      UserError: for an unknown name, or data that cannot be prepared.
      Unavailable: where the network or a disk fails.
    """
    import tensorflow_datasets as tfds

    name = source.removeprefix(SCHEME)
    try:
        builder = tfds.builder(name, try_gcs=False)
        if not builder.is_prepared():
            builder.download_and_prepare()
    except Exception as error:  # TFDS has none of its own for a name or a download that is none.
        if (failing := network_trouble(error)) is not None:
            raise Unavailable(
                f"{source}: TFDS cannot fetch it: {failing}; run the same command again"
            ) from None
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise UserError(f"{source}: TFDS does not give it: {reason}") from None
    return epath.Path(builder.data_path), f"{SCHEME}{builder.info.full_name}"


def splits(path: epath.Path) -> dict[str, list[str]]:
    """The names of the files of each split of a version's directory, in the order of its shards.

    Raises:
      UserError: for a directory that TFDS cannot read, or records of another format.
    """
    import tensorflow_datasets as tfds

    try:
        info = tfds.builder_from_directory(str(path)).info
        parts = {
            name: [epath.Path(file).name for file in info.splits[name].filepaths]
            for name in info.splits
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise unread(path, error) or UserError(
            f"{path}: not a data set of TFDS: {reason}"
        ) from None
    for name in (name for names in parts.values() for name in names):
        if _NAMED not in name:
            raise UserError(f"{path / name}: only TFDS's format tfrecord is read; prepare it so")
    return parts


def rows(file: epath.Path) -> Iterator[Mapping[str, Any]]:
    """Yields the examples of a file, text as text and labels by their names.

    Raises:
      UserError: naming file and example, counted from 1, for a damaged file.
    """
    features = _features(str(file.parent))
    for number, content in enumerate(_contents(file), start=1):
        try:
            example = features.deserialize_example_np(content)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{file}:{number}: not what {FEATURES} beside it says: "
                f"{in_one_line(error)}; prepare it again"
            ) from None
        yield {name: _plain(item, features[name]) for name, item in example.items()}


@functools.cache
def _features(path: str) -> Any:
    import tensorflow_datasets as tfds

    return tfds.features.FeatureConnector.from_config(path)


def _contents(file: epath.Path) -> Iterator[bytes]:
    """The bytes of each record, checked."""
    number = 0
    with file.open("rb") as stream:
        while head := stream.read(_HEAD.size):
            number += 1
            is_whole = len(head) == _HEAD.size and _masked(head[:8]) == _HEAD.unpack(head)[1]
            content = stream.read(_HEAD.unpack(head)[0]) if is_whole else b""
            end = stream.read(_SUM.size)
            if not is_whole or len(end) < _SUM.size or _masked(content) != _SUM.unpack(end)[0]:
                raise UserError(
                    f"{file}:{number}: damaged or cut short; remove {file.parent} and prepare the "
                    "data set again"
                )
            yield content


def _masked(content: bytes) -> int:
    """TensorFlow's checksum: CRC-32C, rotated and shifted, so that one of a sum differs from it."""
    import google_crc32c  # It comes with google-cloud-storage.

    value = google_crc32c.value(content)
    return (((value >> 15) | (value << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _plain(value: Any, feature: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, Mapping):
        return {name: _plain(item, _inside(feature, name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, getattr(feature, "feature", None)) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if hasattr(value, "tolist"):  # NumPy's arrays and numbers
        return _plain(value.tolist(), feature)
    if isinstance(value, float) and value != value:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and hasattr(feature, "int2str"):
        return feature.int2str(value) if value >= 0 else None
    return value


def _inside(feature: Any, name: str) -> Any:
    try:
        return feature[name]
    except (KeyError, TypeError):
        return None
