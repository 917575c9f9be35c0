"""Files appear whole or not at all, and results stay in their folder."""

from pathlib import Path

from helpers.engine.files import home, write_whole

from ..conftest import refused


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b.txt"
    write_whole(target, "one")
    refused(lambda: write_whole(target / "c.txt", "two"), "cannot write")
    assert target.read_text() == "one" and [path.name for path in target.parent.iterdir()] == ["b.txt"]
    write_whole(target, b"two")
    assert target.read_text() == "two"


def test_every_data_set_has_one_published_folder() -> None:
    assert home("cifar10").name == "exercise_03" and home("photos").name == "photos"
    assert home("folder:../../etc") == home("photos").with_name("folder-etc")
