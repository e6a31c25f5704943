"""A folder and the bucket that it mirrors: equal after every run, whatever goes wrong between them."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from storage.bucket import lease, mirror, objects, working_copy
from storage.bucket.lease import Lease, LeaseLostError
from storage.bucket.mirror import local_root
from storage.bucket.objects import ConflictError, Objects, RefusedError, RemoteError
from storage.bucket.working_copy import files_there, hold, is_in_use, push_rest, refresh
from storage.catalog.database import insert_row, open_catalog
from storage.catalog.published import publish
from storage.catalog.vacuum import remove, unneeded
from storage.store import Store, StoreInUseError, open_store, remove_folder, whole_folder
from tests.object_server import SECRET, before


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (mirror, working_copy):
        monkeypatch.setattr(module, "PATIENCE_S", (0.05, 0.1))
    monkeypatch.setattr(lease, "LEASE_S", 0.6)
    monkeypatch.setattr(lease, "RENEW_S", 0.1)
    monkeypatch.setattr(lease, "POLL_S", 0.05)
    monkeypatch.setitem(objects.RETRIES, "max_retries", 1)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Store]:
    """The store as another machine would have it."""

    def open_there(url: str) -> Store:
        monkeypatch.setenv(mirror.CACHE, str(tmp_path / f"cache-{time.monotonic_ns()}"))
        return Store(local_root(url))

    return open_there


def write(store: Store, path: str, text: str) -> None:
    (store.root / path).parent.mkdir(parents=True, exist_ok=True)
    (store.root / path).write_text(text)


def catalogued(store: Store, name: str) -> None:
    with open_catalog(store.catalog, write=True) as connection:
        insert_row(connection, "checkpoints", {"checkpoint_id": name})
    publish(store.catalog)


def names(store: Store) -> list[str]:
    with open_catalog(store.catalog) as connection:
        return [row[0] for row in connection.execute("SELECT checkpoint_id FROM checkpoints ORDER BY 1").fetchall()]


def there(url: str) -> set[str]:
    """Keys of files, without what tells their versions apart."""
    return {key.rpartition(".")[0] for key in Objects(url).listed() if key not in (mirror.MANIFEST, lease.KEY)}


def test_what_a_run_leaves_is_there_and_on_another_machine(bucket: str, elsewhere: Callable[[str], Store]) -> None:
    store = Store(local_root(bucket))
    with hold(store, "test"):
        write(store, "parts/t/r/x.parquet", "x")
        write(store, "corpora/c.unfinished/tokens", "not yet")
        write(store, "parts/t/r/y.parquet.0123abcd.partial", "not yet")
        write(store, "transcoders/r/layer_0.safetensors", "not yet")
        write(store, "checkpoints/a/receipt.json", "a")
        write(store, "checkpoints/b/receipt.json", "b")
        catalogued(store, "a")
    expected = {"parts/t/r/x.parquet", "checkpoints/a/receipt.json", "checkpoints/b/receipt.json", "catalog.duckdb"}
    assert set(files_there(store)) == there(bucket) == expected
    other = elsewhere(bucket)
    refresh(other)
    assert names(other) == ["a"]
    assert not (other.root / "parts").exists()
    refresh(other, "checkpoints/a")
    with hold(other, "test"):
        assert (other.root / "parts/t/r/x.parquet").read_text() == "x"
        assert (other.root / "checkpoints/a/receipt.json").exists()
        assert not (other.root / "checkpoints/b").exists()
    assert there(bucket) == expected


def test_a_reader_fetches_what_it_misses_beside_a_run(bucket: str, elsewhere: Callable[[str], Store]) -> None:
    store = Store(local_root(bucket))
    with hold(store, "test"):
        catalogued(store, "a")
        write(store, "checkpoints/a/receipt.json", "a")
        write(store, "checkpoints/b/receipt.json", "b")
        write(store, "checkpoints/b/weights", "as pushed")
    expected = there(bucket)
    other = elsewhere(bucket)
    with hold(other, "run"):
        catalogued(other, "c")
        write(other, "checkpoints/b/weights", "newer")
        token = working_copy._SESSION.set(None)  # a reader is another process
        refresh(other, "checkpoints/b")
        refresh(other)
        working_copy._SESSION.reset(token)
        assert (other.root / "checkpoints/b/receipt.json").read_text() == "b"
        assert (other.root / "checkpoints/b/weights").read_text() == "newer"
        assert not (other.root / "checkpoints/a").exists()
        assert names(other) == ["a", "c"]
    assert there(bucket) == expected


def test_nothing_new_is_nothing_uploaded(bucket: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with before(s3_endpoint, lambda *_: None) as (endpoint, asked):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        store = Store(local_root(bucket))
        for _ in range(2):
            asked.clear()
            with hold(store, "test"):
                write(store, "parts/t/r/x.parquet", "x")
                if not store.catalog.exists():
                    catalogued(store, "a")
        assert {path.rpartition("/")[2] for method, path in asked if method == "PUT"} == {lease.KEY}


def test_changes_and_removals_travel(bucket: str, elsewhere: Callable[[str], Store]) -> None:
    store, other = Store(local_root(bucket)), elsewhere(bucket)
    with hold(store, "test"):
        catalogued(store, "a")
        write(store, "answers/ab/1.json", "first")
        write(store, "activations/r/rows-0-2/value", "sparse")
        write(store, "activations/r/rows-2-4/value", "sparse too")
    with hold(other, "test"):
        catalogued(other, "b")
        write(other, "answers/ab/1.json", "second")
        remove_folder(other.root / "activations/r/rows-0-2")
    assert there(bucket) == {"catalog.duckdb", "answers/ab/1.json", "activations/r/rows-2-4/value"}
    with hold(store, "test"):
        assert names(store) == ["a", "b"]
        assert (store.root / "answers/ab/1.json").read_text() == "second"
        assert [path.name for path in (store.root / "activations/r").iterdir()] == ["rows-2-4"]


def test_what_is_new_here_is_not_undone_by_what_is_old_there(bucket: str) -> None:
    store = Store(local_root(bucket))
    with hold(store, "test"):
        catalogued(store, "a")
        write(store, "answers/ab/1.json", "first")
    write(store, "answers/ab/1.json", "paid for by a run that was killed")
    catalogued(store, "b")
    refresh(store)
    assert names(store) == ["a", "b"]
    with hold(store, "test"):
        assert (store.root / "answers/ab/1.json").read_text() == "paid for by a run that was killed"


def test_a_cache_that_was_wiped_removes_nothing(bucket: str) -> None:
    store = Store(local_root(bucket))
    with hold(store, "test"):
        catalogued(store, "a")
        write(store, "parts/t/r/x.parquet", "x")
    expected = there(bucket)
    shutil.rmtree(store.root / "parts")
    with hold(store, "test"):
        assert (store.root / "parts/t/r/x.parquet").exists()
    shutil.rmtree(store.root)
    store = Store(local_root(bucket))
    with hold(store, "vacuum", everything=False):
        pass
    assert there(bucket) == expected


def test_a_bucket_that_was_emptied_is_filled_again(bucket: str) -> None:
    store, remote = Store(local_root(bucket)), Objects(bucket)
    with hold(store, "test"):
        catalogued(store, "a")
        write(store, "parts/t/r/x.parquet", "x")
    expected = there(bucket)
    remote.remove(list(remote.listed()))
    refresh(store)
    push_rest(store)
    assert there(bucket) == expected


def test_while_files_come_and_go_a_push_is_whole(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the manifest says, at any time: a receipt with all that it vouches for, folders whole."""
    monkeypatch.setattr(working_copy, "PUSH_EVERY_S", 0.01)
    store, remote = Store(local_root(bucket)), Objects(bucket)
    seen: list[set[str]] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            found = remote.get(mirror.MANIFEST)
            seen.append(set(found.json()["files"]) if found else set())

    looking = threading.Thread(target=look)
    looking.start()
    with hold(store, "test"):
        for n in range(60):
            for chunk in "zyx":
                write(store, f"checkpoints/c/{n}/{chunk}", "x")
            write(store, f"checkpoints/c/{n}/a-receipt", "x")
            with whole_folder(store.root / f"activations/r/{n}") as partial:
                for name in "abcd":
                    (partial / name).write_text(name)
            if n >= 2:
                remove_folder(store.root / f"activations/r/{n - 2}")
            time.sleep(0.01)
    done.set()
    looking.join()
    assert len(seen) > 3
    for files in seen:
        for path in files:
            folder, _, name = path.rpartition("/")
            if name == "a-receipt":
                assert files >= {f"{folder}/{chunk}" for chunk in "xyz"}
            if path.startswith("activations"):
                assert files >= {f"{folder}/{one}" for one in "abcd"}


def test_a_second_run_is_refused_and_told_who_holds_it(bucket: str, elsewhere: Callable[[str], Store]) -> None:
    store, other, heard = Store(local_root(bucket)), elsewhere(bucket), []
    with hold(store, "run first"):
        time.sleep(lease.LEASE_S)
        with (
            pytest.raises(StoreInUseError, match=r"in use by 'run first', process \d+ on"),
            hold(other, "run second", notify=heard.append),
        ):
            pass
        with pytest.raises(StoreInUseError, match="run first"), hold(store, "run third"):
            pass
        assert is_in_use(store)
        assert is_in_use(other)
    assert "run first" in heard[0]
    assert not is_in_use(other)
    with hold(other, "run second"):
        pass


def test_what_a_dead_run_of_this_folder_held_is_free_at_once(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(local_root(bucket))
    folder = mirror.Mirror.of(store)
    assert folder is not None
    dead = working_copy._lease(folder, "run")
    dead.take(lambda _: None)
    dead._stop.set()
    monkeypatch.setattr(Lease, "_watched", None)  # nobody needs to look on for a while
    assert not is_in_use(store)


def taken(url: str, machine: str) -> Lease:
    found = Lease(Objects(url), f"run on {machine}", machine)
    found.take(lambda _: None)
    return found


def test_the_lease_of_a_dead_holder_is_taken_over(bucket: str) -> None:
    dead = taken(bucket, "one")
    dead._stop.set()
    time.sleep(2 * lease.RENEW_S)
    began = time.monotonic()
    taken(bucket, "one").release()
    assert time.monotonic() - began < lease.LEASE_S  # the holder of the folder's own lock knows
    dead = taken(bucket, "one")
    dead._stop.set()
    time.sleep(2 * lease.RENEW_S)
    assert not Lease(Objects(bucket), "", "three").is_in_use()
    began = time.monotonic()
    living = taken(bucket, "two")
    assert time.monotonic() - began >= lease.LEASE_S
    with pytest.raises(LeaseLostError, match="taken over by run on two"):
        dead.renew()
    dead.release()
    living.renew()
    living.release()


def test_of_many_that_want_the_lease_one_gets_it(bucket: str) -> None:
    got: list[Lease | Exception] = []

    def want(n: int) -> None:
        try:
            got.append(taken(bucket, str(n)))
        except StoreInUseError as error:
            got.append(error)

    threads = [threading.Thread(target=want, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    holders = [one for one in got if isinstance(one, Lease)]
    assert len(holders) == 1
    holders[0].release()


def test_a_run_that_lost_its_lease_writes_no_more(bucket: str, elsewhere: Callable[[str], Store]) -> None:
    store, other = Store(local_root(bucket)), elsewhere(bucket)
    with pytest.raises(LeaseLostError, match="taken over by 'second'"), hold(store, "first"):
        catalogued(store, "a")
        session = working_copy._SESSION.get()
        assert session is not None
        session.lease._stop.set()  # stopped, like a laptop that was closed
        time.sleep(2 * lease.RENEW_S)
        token = working_copy._SESSION.set(None)
        with hold(other, "second"):
            write(other, "parts/t/r/x.parquet", "x")
            working_copy._SESSION.reset(token)
            working_copy.push_stage()
    assert there(bucket) == {"parts/t/r/x.parquet"}
    with hold(store, "first"):
        pass
    assert there(bucket) == {"catalog.duckdb", "parts/t/r/x.parquet"}


def test_a_server_without_conditional_writes_is_refused(
    bucket: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with before(s3_endpoint, lambda *_: None, without=("if-none-match", "if-match")) as (endpoint, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        with pytest.raises(RefusedError, match="ignores conditions of writes"), hold(Store(local_root(bucket)), "test"):
            pass


def test_a_stale_tag_replaces_nothing(bucket: str) -> None:
    remote = Objects(bucket)
    first = remote.swap("x", b"1", None)
    second = remote.swap("x", b"2", first)
    for tag in (first, None):
        with pytest.raises(ConflictError):
            remote.swap("x", b"3", tag)
    found = remote.get("x")
    assert found == (b"2", second)
    assert remote.get("y") is None


def test_a_server_that_refuses_is_asked_again_and_the_rest_pushed_later(
    bucket: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_refused, refused = 3, 0

    def trouble(method: str, path: str) -> int | None:
        nonlocal refused
        if method == "PUT" and "parts" in path and refused < n_refused:
            refused += 1
            return 503
        return None

    with before(s3_endpoint, trouble) as (endpoint, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        store = Store(local_root(bucket))
        with hold(store, "test"):
            catalogued(store, "a")
            write(store, "parts/t/r/x.parquet", "x")
        assert refused == n_refused
        n_refused = 1000
        with pytest.raises(RemoteError, match=r"does not answer as expected.*503"), hold(store, "test"):
            write(store, "parts/t/r/y.parquet", "y")
        n_refused = 0
        assert "parts/t/r/y.parquet" not in files_there(store)
        push_rest(store)
        assert "parts/t/r/y.parquet" in files_there(store)


def test_a_damaged_object_is_not_taken(bucket: str, elsewhere: Callable[[str], Store]) -> None:
    store = Store(local_root(bucket))
    with hold(store, "test"):
        write(store, "parts/t/r/x.parquet", "right")
    remote = Objects(bucket)
    key = next(key for key in remote.listed() if "x.parquet" in key)
    found = remote.get(key)
    assert found is not None
    remote.swap(key, b"wrong", found.etag)
    other = elsewhere(bucket)
    with pytest.raises(RemoteError, match=r"x\.parquet\.[0-9a-f]+ is damaged"), hold(other, "test"):
        pass
    assert not list(other.root.rglob("x.parquet*"))


@pytest.mark.parametrize("path", ["../outside", "parts/../../outside", "/outside", ".mirror/remote.json", "lock"])
def test_a_manifest_can_name_nothing_outside_of_a_store(bucket: str, path: str) -> None:
    content = json.dumps({"version": mirror.VERSION, "files": {path: [1, "0" * 64]}})
    Objects(bucket).swap(mirror.MANIFEST, content.encode(), None)
    with pytest.raises(ValueError, match="which cannot be a file of a store"), hold(Store(local_root(bucket)), "test"):
        pass


def test_vacuum_removes_what_is_only_in_the_bucket(bucket: str, elsewhere: Callable[[str], Store]) -> None:
    store = Store(local_root(bucket))
    with hold(store, "test"):
        catalogued(store, "a")
        write(store, "checkpoints/a/receipt.json", "a")
        write(store, "checkpoints/b/receipt.json", "b")
    Objects(bucket).swap("reports/mine.txt", b"mine", None)
    other = elsewhere(bucket)
    refresh(other)
    found = unneeded(other, there=files_there(other))
    assert [(item.path.name, item.n_bytes) for item in found] == [("b", 1)]
    with hold(other, "vacuum", everything=False):
        remove(found)
    assert set(files_there(other)) == {"catalog.duckdb", "checkpoints/a/receipt.json"}
    assert "reports/mine.txt" in Objects(bucket).listed()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://bucket/x", r"unknown scheme ftp://; expected s3://BUCKET/PREFIX, or a folder"),
        ("s3:///x", "names no bucket"),
        (f"s3://user:{SECRET}@bucket/x", "has a user, password, port or query in it"),
        (f"s3://bucket/x?secret={SECRET}", "credentials and endpoint in the environment"),
    ],
)
def test_urls_that_are_no_store(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        local_root(url)
    assert SECRET not in str(caught.value)


def test_what_keeps_a_bucket_from_being_used(bucket: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RefusedError, match="there is no bucket nowhere; make it, or name another"):
        refresh(Store(local_root("s3://nowhere/x")))
    with before(s3_endpoint, lambda *_: 403) as (endpoint, _), monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", endpoint)
        with pytest.raises(RefusedError, match="access denied; expected credentials in the environment"):
            refresh(Store(local_root(bucket)))
    with monkeypatch.context() as patch:
        patch.delenv("AWS_ALLOW_HTTP")
        with pytest.raises(RefusedError, match="set AWS_ALLOW_HTTP=true"):
            refresh(Store(local_root(bucket)))
    with before(s3_endpoint, lambda *_: 404) as (endpoint, _), monkeypatch.context() as patch:
        patch.setenv("AWS_METADATA_ENDPOINT", f"{endpoint}/latest/api/token")
        patch.delenv("AWS_ACCESS_KEY_ID")
        patch.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(RefusedError, match="expected AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
            refresh(Store(local_root(bucket)))


def test_a_plain_folder_is_held_as_ever(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    assert local_root(store.root) == store.root
    with hold(store, "test"):
        refresh(store, "checkpoints/a")
    assert not (store.root / ".mirror").exists()
    assert files_there(store) == {}


@pytest.fixture(autouse=True)
def _no_threads_left() -> Iterator[None]:
    yield
    give_up = time.monotonic() + 5
    while any(thread.name in ("lease", "push") for thread in threading.enumerate()) and time.monotonic() < give_up:
        time.sleep(0.05)
