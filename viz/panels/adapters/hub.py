"""An adapter by its hub id, on the page: first what would be downloaded and how large it is, then the download, file by
file.
"""

from collections.abc import Iterator, Mapping
from html import escape

from merging.adapters.fetch import looked_up
from merging.errors import MergeError
from merging.io.hub import Repository


def fetched(name: str) -> Iterator[tuple[str, Repository]]:
    """Yield (what is going on, as HTML; the repository): the listing before any download, then after every file.

    Raises
    ------
    MergeError
        For what is no hub id, is not there, is no adapter or is too large.
    """
    name = name.strip()
    if not name:
        raise MergeError("Give a hub id such as user/adapter or user/adapter@revision.")
    repository = looked_up(name) if name.count("/") == 1 and not name.startswith((".", "/", "~")) else None
    if repository is None:
        raise MergeError(f"{name} is no hub id: it has the form user/adapter or user/adapter@revision.")
    yield _listing(repository, 0), repository
    for done, file in enumerate(repository.sizes, 1):
        repository.download([file])
        yield _listing(repository, done), repository


def _listing(repository: Repository, done: int) -> str:
    sizes: Mapping[str, int] = repository.sizes
    rows = "".join(
        f'<tr><td>{escape(file)}</td><td class="ms-number">{size:,}</td>'
        f"<td>{'here' if place <= done else 'to come'}</td></tr>"
        for place, (file, size) in enumerate(sizes.items(), 1)
    )
    here, total = sum(list(sizes.values())[:done]), sum(sizes.values())
    said = f"{escape(repository.repo)} at commit {repository.commit[:7]}: {here / 1e6:.1f} of {total / 1e6:.1f} MB"
    return (
        f'<p role="status">{said}</p><div class="ms-scroll"><table><thead><tr><th>file</th><th>bytes</th><th></th></tr>'
        f"</thead><tbody>{rows}</tbody></table></div>"
    )
