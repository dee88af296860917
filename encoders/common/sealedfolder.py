"""The folder of a trained model: written atomically, read strictly, never unpickled.

A description in JSON names the format and holds the hashes of the other files and a checksum of
itself. It is written last: a folder whose files do not match it was left half-written or was
altered since, and is refused. Tensors lie in safetensors files, gene names in ``genes.csv``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.errors import DataError, WeightsError
from spade_bench.files import atomic_path, hash_file, read_sealed, write_sealed, write_text

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "FolderFormat",
    "check_tensors",
    "read_genes",
    "read_tensors",
    "write_genes",
    "write_tensors",
]

_LISTED = 6  # keys named in a message


@dataclass(frozen=True)
class FolderFormat:
    """What the folders of one kind of model consist of.

    Attributes:
        model: Name of the model, such as `SPADE`.
        schema: Name and version of the format.
        description: File that describes the model.
        files: The other files, whose hashes the description holds.
        made_by: How a person comes by such a folder; ends error messages.
    """

    model: str
    schema: str
    description: str
    files: tuple[str, ...]
    made_by: str

    def seal(self, folder: Path, content: Mapping[str, Any]) -> None:
        """Write the description, as the last file of the folder.

        Args:
            folder: Holds all other files already.
            content: What to say of the model, as plain values.
        """
        hashes = {name: hash_file(folder / name) for name in self.files}
        head = {"schema": self.schema}
        write_sealed(folder / self.description, {**head, **content, "files": hashes})

    def unseal(self, folder: Path, keys: Collection[str]) -> dict[str, Any]:
        """Read the description and check every file of the folder against it.

        Args:
            folder: The folder.
            keys: Keys that the description must hold beside `schema` and `files`, and no others.

        Returns:
            The values of ``keys``.

        Raises:
            WeightsError: When the folder is of another kind or schema, or a file or key is missing,
                altered or unknown.
        """
        content = self._described(folder, keys)
        hashes = content.pop("files")
        for name in self.files:
            if not (folder / name).is_file():
                raise WeightsError(f"{name} is missing", where=str(folder), fix=self.made_by)
            if hash_file(folder / name) != hashes.get(name):
                raise WeightsError(
                    f"{name} is not the file that {self.description} describes",
                    where=str(folder),
                    fix="The folder was left half-written or altered: run the command that wrote "
                    "it again, or copy it anew",
                )
        return content

    def _described(self, folder: Path, keys: Collection[str]) -> dict[str, Any]:
        path = folder / self.description
        if not path.is_file():
            raise WeightsError(
                f"not a {self.model} folder: it has no {self.description}",
                where=str(folder),
                fix=self.made_by,
            )
        try:
            content = read_sealed(path)
        except DataError as error:
            fix = "Run the command that wrote it again, or copy the folder anew"
            raise WeightsError(error.what, where=str(path), fix=fix) from error
        schema = content.pop("schema", None)
        other = "Use the version of spade-bench that wrote it, or train again"
        if schema != self.schema:
            raise WeightsError(
                f"unknown schema {schema!r}; this version reads {self.schema!r}",
                where=str(path),
                fix=other,
            )
        wanted = {*keys, "files"}
        problems = [
            f"{label}: {', '.join(sorted(names))}"
            for label, names in (
                ("keys missing", wanted - content.keys()),
                ("unknown keys", content.keys() - wanted),
            )
            if names
        ]
        if problems:
            raise WeightsError("; ".join(problems), where=str(path), fix=other)
        return content


def check_tensors(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], where: str
) -> None:
    """Refuse tensors that are not exactly the expected ones.

    Args:
        tensors: What was read.
        shapes: The expected names and their shapes.
        where: Names the file in messages.

    Raises:
        WeightsError: Naming missing and unexpected keys, or a wrong shape.
    """
    missing = [key for key in shapes if key not in tensors]
    unexpected = [key for key in tensors if key not in shapes]
    parts = [
        f"{label}: {_some(keys)}"
        for label, keys in (("missing keys", missing), ("unexpected keys", unexpected))
        if keys
    ]
    if parts:
        raise WeightsError("; ".join(parts), where=where)
    for key, shape in shapes.items():
        if tuple(tensors[key].shape) != shape:
            raise WeightsError(
                f"{key} has shape {tuple(tensors[key].shape)}, expected {shape}", where=where
            )


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors into a safetensors file, atomically.

    Args:
        path: The file.
        tensors: By name, on any device.
        metadata: Goes into the file's header.
    """
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        # save_file would make it readable to its owner only
        temporary.write_bytes(save(plain, None if metadata is None else dict(metadata)))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file.

    Returns:
        The tensors on the CPU, as copies: maps of a file that is replaced or cut later are fatal,
        and keep Windows from replacing it. And the metadata of the file's header.

    Raises:
        WeightsError: When it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as handle:
            tensors = {name: handle.get_tensor(name).clone() for name in handle.keys()}  # noqa: SIM118
            return tensors, dict(handle.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"not a readable safetensors file ({error})", where=str(path)) from error


def write_genes(path: Path, genes: Sequence[str]) -> None:
    """Write gene names in column order, one per line under a heading."""
    write_text(path, "gene\n" + "".join(f"{gene}\n" for gene in genes))


def read_genes(path: Path, n_genes: int, description: str) -> tuple[str, ...]:
    """Read what :func:`write_genes` wrote.

    Args:
        path: The file.
        n_genes: How many the model takes.
        description: File that says so.

    Raises:
        WeightsError: When there are more or fewer.
    """
    genes = tuple(path.read_text(encoding="utf-8").split("\n")[1:-1])
    if len(genes) != n_genes:
        raise WeightsError(
            f"{path.name} has {len(genes)} genes, {description} says {n_genes}",
            where=str(path.parent),
        )
    return genes


def _some(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
    return ", ".join(keys[:_LISTED]) + more
