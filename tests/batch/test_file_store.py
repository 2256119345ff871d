from pathlib import Path

import pytest

from servery.batch.file_store import FileStore
from servery.wire.errors import ApiError
from servery.wire.files import FileObject
from tests.batch.full_disk import files_up_to

ME, YOU = b"me", b"you"


def store(folder: Path, max_bytes: int = 100, max_file_bytes: int = 60) -> FileStore:
    return FileStore(folder, max_bytes, max_file_bytes, now=lambda: 5.0)


def put(files: FileStore, data: bytes, owner: bytes = ME) -> FileObject:
    upload = files.upload()
    try:
        upload.write(data)
    except ApiError:
        upload.abandon()
        raise
    return files.finish(upload, owner, "in.jsonl", "batch")


def test_a_file_is_there_again_after_a_restart(tmp_path: Path) -> None:
    file = put(store(tmp_path), b"hello")

    again = store(tmp_path)
    assert again.get(ME, file.id) == file
    assert file == FileObject(id=file.id, bytes=5, created_at=5, filename="in.jsonl", purpose="batch")
    assert again.content_path(file.id).read_bytes() == b"hello"


def test_what_was_not_finished_leaves_no_trace(tmp_path: Path) -> None:
    files = store(tmp_path)
    (tmp_path / "0123.part").write_bytes(b"half of an upload")
    gone = files.upload()
    gone.abandon()
    file = put(files, b"whole")
    files.content_path("file-orphan").write_bytes(b"its description was never written")

    again = store(tmp_path)
    assert again.of(ME) == [file]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{file.id}.data", f"{file.id}.json"]


def test_a_file_and_all_files_are_bounded(tmp_path: Path) -> None:
    files = store(tmp_path)
    with pytest.raises(ApiError, match="may have 60 bytes and all files together 100, of which 0 are taken") as caught:
        put(files, b"x" * 61)
    assert caught.value.status == 413
    put(files, b"x" * 60)
    with pytest.raises(ApiError, match="of which 60 are taken"):
        put(files, b"x" * 41)
    put(files, b"x" * 40)
    assert files.room.taken_bytes == 100


def test_another_s_file_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    files = store(tmp_path)
    file = put(files, b"secret", YOU)

    for attempt in (files.get, files.delete):
        with pytest.raises(ApiError, match="There is no file") as caught:
            attempt(ME, file.id)
        assert (caught.value.status, caught.value.code) == (404, "file_not_found")
    assert (files.of(ME), files.of(YOU)) == ([], [file])
    files.delete(YOU, file.id)
    assert (store(tmp_path).of(YOU), list(tmp_path.iterdir())) == ([], [])


def test_uploads_at_once_keep_to_the_bound_together(tmp_path: Path) -> None:
    files = store(tmp_path)
    uploads = [files.upload() for _ in range(3)]
    for upload in uploads[:2]:
        upload.write(b"x" * 45)
    with pytest.raises(ApiError, match="all files together 100, of which 90 are taken") as caught:
        uploads[2].write(b"x" * 45)
    uploads[2].abandon()
    assert caught.value.status == 413
    first = files.finish(uploads[0], ME, "in.jsonl", "batch")
    uploads[1].abandon()
    assert (files.room.taken_bytes, store(tmp_path).room.taken_bytes) == (45, 45)
    files.delete(ME, first.id)
    assert files.room.taken_bytes == 0


@pytest.mark.parametrize("largest", [0, 20])  # when its description is written; when the rest of its content is
def test_a_full_disk_leaves_no_trace_of_an_upload(tmp_path: Path, largest: int) -> None:
    files = store(tmp_path)
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    upload = files.upload()
    upload.write(b"x" * 10 if largest else b"x" * 50)
    with files_up_to(largest), pytest.raises(ApiError, match="could not write to its disk: File too large") as caught:
        files.finish(upload, ME, "in.jsonl", "batch")

    assert (caught.value.status, caught.value.code, caught.value.is_final) == (507, "insufficient_storage", True)
    assert (list(tmp_path.iterdir()), files.of(ME), files.room.taken_bytes) == ([], [], 0)
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    files = store(tmp_path / "kept")
    (tmp_path / "kept").rmdir()
    with pytest.raises(ApiError, match="could not write to its disk: No such file or directory"):
        files.upload()


def test_a_description_without_its_content_is_no_file(tmp_path: Path) -> None:
    file = put(store(tmp_path), b"hello")
    store(tmp_path).content_path(file.id).unlink()
    assert (store(tmp_path).of(ME), list(tmp_path.iterdir())) == ([], [])
