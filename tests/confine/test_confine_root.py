from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confine.confined_children import (
    USERS,
    failure,
    in_child,
    let_everyone_in,
    needs_namespaces,
    refuse,
    wait_for,
)

from rlm.confine import namespaces, privileges, root, syscalls

LIBRARIES = [path for path in ("/usr", "/lib", "/lib64", "/bin") if os.path.exists(path)]
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
MIB = 1 << 20


@pytest.fixture(params=USERS)
def user(request: pytest.FixtureRequest) -> int:
    needs_namespaces(request.param)
    return int(request.param)


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A folder that every user may enter and write, with `seen/file` and `hidden/file`."""
    let_everyone_in(tmp_path).chmod(0o777)
    for name in ("seen", "hidden"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o777)
        (tmp_path / name / "file").write_text(name)
        (tmp_path / name / "file").chmod(0o666)
    return tmp_path


def build(read: list[Any] | None = None, **more: Any) -> str:
    arguments: dict[str, Any] = {"files": [], "devices": [], **more}
    return root.build(read=[str(path) for path in read or []], **arguments)


def in_root(work: Callable[[], Any], user: int, read: list[Any] | None = None, **more: Any) -> Any:
    """What `work` returns in a private root."""

    def child() -> Any:
        build(read, **more)
        return work()

    return in_child(child, user=user, family=True)


def test_a_private_root_shows_what_it_was_given_and_nothing_else(host: Path, user: int) -> None:
    def work() -> Any:
        return [sorted(os.listdir(host)), sorted(os.listdir("/")), (host / "seen/file").read_text()]

    shown, top, text = in_root(work, user, [host / "seen"])
    assert (shown, text) == (["seen"], "seen")
    assert set(top) <= {"proc", "tmp", host.parts[1]}


def test_nothing_in_a_private_root_can_be_written_but_its_temporary_folder(host: Path, user: int) -> None:
    def work() -> Any:
        Path("/tmp/own").write_text("text")
        return [
            failure(lambda: (host / "seen/file").write_text("")),
            failure(lambda: (host / "seen/new").touch()),
            failure(lambda: (host / "seen/file").chmod(0o600)),
            failure(lambda: Path("/new").touch()),
        ]

    assert in_root(work, user, [host / "seen"]) == ["EROFS"] * 4


def test_what_is_mounted_below_a_folder_is_seen_and_read_only_too(host: Path, user: int, old_kernel: None) -> None:
    def work() -> Any:
        (host / "seen/odd name").mkdir()
        root._mount("tmpfs", str(host / "seen/odd name"), "tmpfs", root.NOSUID | root.NOEXEC | 1 << 10)  # noatime
        (host / "seen/odd name/file").write_text("mounted")
        (host / "seen/other").mkdir()
        root._mount("tmpfs", str(host / "seen/other"), "tmpfs", root.NODEV | 1 << 24)  # strictatime
        # A further family: now the flags of the mounts are locked.
        return wait_for(lambda: in_family_of_family(host))

    assert in_child(work, user=user, family=True) == ["mounted", "EROFS", "EROFS", "EROFS"]


def in_family_of_family(host: Path) -> Any:
    def work() -> Any:
        build([host / "seen"])
        return [
            (host / "seen/odd name/file").read_text(),
            failure(lambda: (host / "seen/odd name/file").write_text("")),
            failure(lambda: (host / "seen/other/new").touch()),
            failure(lambda: (host / "seen/file").write_text("")),
        ]

    return in_child(work, user=os.geteuid(), family=True)


@pytest.fixture(params=["mount_setattr", "remount"])
def old_kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The second time without mount_setattr(2), which came with Linux 5.12."""
    if request.param == "remount":
        monkeypatch.delitem(syscalls.NUMBERS, "mount_setattr")
    yield


def test_folders_are_found_through_the_symbolic_links_that_lead_to_them(host: Path, user: int) -> None:
    (host / "real/deep/down").mkdir(parents=True)
    (host / "real/deep/down/file").write_text("deep")
    (host / "side").mkdir()
    (host / "side/absolute").symlink_to(host / "real")
    (host / "relative").symlink_to("hidden/../side/absolute/deep")  # through a folder that is not shown itself
    paths = [host / "relative/down", host / "side/absolute/deep/down", host / "real/deep/down"]

    def work() -> Any:
        return [[(path / "file").read_text() for path in paths], os.listdir(host / "hidden")]

    assert in_root(work, user, [paths[0], *paths[1:2]]) == [["deep"] * 3, []]


def test_a_loop_of_links_is_an_error_that_is_told(host: Path, user: int) -> None:
    (host / "loop").symlink_to("loop")
    assert in_child(lambda: failure(lambda: build([host / "loop"])), user=user, family=True) == "ELOOP"


def test_a_folder_in_a_folder_that_is_seen_and_one_that_does_not_exist_change_nothing(host: Path, user: int) -> None:
    (host / "seen/inner").mkdir()
    read = [host / "seen/inner", host / "seen", host / "nothing", host / "seen/file/below"]
    assert in_root(lambda: sorted(os.listdir(host / "seen")), user, read) == ["file", "inner"]
    assert root.plan([str(path) for path in read]).directories == [str(host / "seen")]


def test_the_root_directory_itself_is_never_shown(user: int) -> None:
    assert in_child(lambda: failure(lambda: build(["/"])), user=user, family=True) == "EINVAL"


def test_a_single_file_is_shown_without_its_neighbours(host: Path, user: int) -> None:
    (host / "link").symlink_to("seen/file")

    def work() -> Any:
        return [
            (host / "link").read_text(),
            os.listdir(host / "hidden"),
            failure(lambda: (host / "link").write_text("")),
        ]

    (host / "hidden/neighbour").touch()
    assert in_root(work, user, files=[str(host / "link"), str(host / "hidden/file")]) == ["seen", ["file"], "EROFS"]


def test_devices_are_read_and_written_and_their_nodes_stay_as_they_are(user: int) -> None:
    def work() -> Any:
        null = os.open("/dev/null", os.O_RDWR)
        zeros = Path("/dev/zero").open("rb", buffering=0).read(3)
        mode = os.stat("/dev/null").st_mode & 0o777
        return [
            os.write(null, b"x"),
            zeros.hex(),
            sorted(os.listdir("/dev")),
            failure(lambda: os.chmod("/dev/null", mode)),
        ]

    assert in_root(work, user, devices=[*DEVICES, "/dev/nothing"]) == [
        1,
        "000000",
        ["null", "urandom", "zero"],
        "EROFS",
    ]


@pytest.mark.parametrize("base", ["/tmp", "its own", "above it"])
def test_a_folder_below_the_temporary_one_and_the_base_is_shown(host: Path, user: int, base: str) -> None:
    chosen = {"/tmp": "/tmp", "its own": str(host), "above it": str(host / "seen/inner")}[base]
    (host / "seen/inner/innermost").mkdir(parents=True)
    seen = in_root(lambda: os.listdir(host / "seen/inner"), user, [host / "seen"], base=chosen)
    assert seen == ["innermost"]


def test_proc_shows_a_worker_only_itself_and_cannot_be_written(user: int) -> None:
    def worker() -> Any:
        namespaces.enter_worker()
        numbers = [name for name in os.listdir("/proc") if name.isdigit()]
        written = failure(lambda: Path("/proc/self/comm").write_text("x"))
        return [numbers == [str(os.getpid())], written, os.path.exists("/proc/sys")]

    assert in_root(lambda: wait_for(worker), user) == [True, "EROFS", False]


def test_where_proc_cannot_be_mounted_there_is_none_and_workers_enter_their_namespaces_all_the_same(user: int) -> None:
    def covered() -> Any:
        root._mount("tmpfs", "/proc/sys", "tmpfs", 0)  # as container engines cover parts of theirs
        return in_child(uncovered, user=os.geteuid(), family=True)

    def uncovered() -> Any:
        without = build()
        return [without, os.listdir("/"), wait_for(worker)]

    def worker() -> Any:
        before = os.getuid()
        namespaces.enter_worker()
        root.mount_scratch(MIB)
        Path("/tmp/file").touch()
        return [os.getuid() == before, namespaces._proc, failure(lambda: os.listdir(f"/proc/{os.getpid()}"))]

    answer = in_child(covered, user=user, family=True)
    assert answer == ["mount /tmp/proc: EPERM (Operation not permitted)", ["tmp"], [True, -1, "ENOENT"]]


@pytest.mark.parametrize("refused", [[], ["unshare"]], ids=["entered", "refused"])
def test_a_worker_keeps_no_way_to_a_writable_proc_whether_it_enters_its_namespaces_or_not(
    user: int, refused: list[str]
) -> None:
    def worker() -> Any:
        kept = namespaces._proc
        if refused:
            refuse(refused)
        entered = failure(namespaces.enter_worker)
        return [entered, kept >= 0, namespaces._proc, failure(lambda: os.fstat(kept))]

    assert in_root(lambda: wait_for(worker), user) == ["EPERM" if refused else "", True, -1, "EBADF"]


def test_a_worker_sees_its_own_scratch_directory_and_no_one_else_does(user: int) -> None:
    def worker() -> Any:
        namespaces.enter_worker()
        root.mount_scratch(MIB)
        before = os.listdir("/tmp")
        Path("/tmp/workers").write_text("text")
        return [before, os.listdir("/tmp")]

    def work() -> Any:
        Path("/tmp/zygotes").touch()
        return [wait_for(worker), wait_for(worker), os.listdir("/tmp")]

    assert in_root(work, user) == [[[], ["workers"]], [[], ["workers"]], ["zygotes"]]


def test_a_scratch_directory_holds_its_size_and_no_more_and_a_bounded_number_of_files(user: int) -> None:
    def worker() -> Any:
        namespaces.enter_worker()
        root.mount_scratch(MIB)
        fits = Path("/tmp/fits").write_bytes(bytes(MIB // 2))
        full = failure(lambda: Path("/tmp/not").write_bytes(bytes(MIB)))
        Path("/tmp/not").unlink()
        files = failure(lambda: [Path(f"/tmp/{number}").touch() for number in range(2000)])
        return [fits == MIB // 2, full, files, os.stat("/tmp").st_mode & 0o7777]

    assert in_root(lambda: wait_for(worker), user) == [True, "ENOSPC", "ENOSPC", 0o700]


def test_nothing_in_a_scratch_directory_can_be_run(user: int) -> None:
    def worker() -> Any:
        namespaces.enter_worker()
        root.mount_scratch(MIB)
        Path("/tmp/program").write_text("#!/bin/sh\n")
        os.chmod("/tmp/program", 0o755)
        return failure(lambda: os.execv("/tmp/program", ["program"]))

    assert in_root(lambda: wait_for(worker), user, LIBRARIES) == "EACCES"


def test_folders_of_a_store_are_reached_by_their_names_alone_which_cannot_be_listed_and_change(user: int) -> None:
    def worker() -> Any:
        namespaces.enter_worker()
        root.mount_scratch(MIB)
        privileges.set_no_new_privs()
        privileges.drop_capabilities()
        if not root.linked:
            return None
        store, folders, before = root.STORE, f"{root.STORE}/{root.FOLDERS}", root.find_scratch()
        listed = [failure(lambda: os.listdir(folders)), os.listdir(store)]
        moved = [failure(lambda: os.rename(folders, f"{store}/new")), failure(lambda: os.mkdir(f"{store}/new"))]
        Path(before, "file").touch()
        root.move_scratch()
        return [*listed, *moved, failure(lambda: os.stat(before)), os.listdir("/tmp"), os.listdir(root.find_scratch())]

    told = in_root(lambda: wait_for(worker), user)
    if told is None:
        pytest.skip("there is no /proc for a link to lead through")
    assert told == ["EACCES", [root.FOLDERS], "EACCES", "EACCES", "ENOENT", ["file"], ["file"]]


def test_a_folder_of_the_host_below_the_scratch_directory_stays_visible_and_read_only(host: Path, user: int) -> None:
    if host.parts[:2] != ("/", "tmp"):
        pytest.skip("the temporary files are elsewhere")
    (host / "link").symlink_to("seen")
    single = str(host / "hidden/file")

    def worker() -> Any:
        namespaces.enter_worker()
        root.mount_scratch(MIB)
        return [
            (host / "link/file").read_text(),
            Path(single).read_text(),
            failure(lambda: (host / "seen/new").touch()),
            failure(lambda: Path("/tmp/new").touch()),
            os.getcwd(),
        ]

    texts = ["seen", "hidden", "EROFS", "", "/"]
    assert in_root(lambda: wait_for(worker), user, [host / "link"], files=[single]) == texts


def test_a_worker_without_capabilities_cannot_make_anything_writable_again(host: Path, user: int) -> None:
    def worker() -> Any:
        namespaces.enter_worker()
        root.mount_scratch(MIB)
        privileges.set_no_new_privs()
        privileges.drop_capabilities()
        flags = root.REMOUNT | root.BIND
        return [
            failure(lambda: root._mount(None, str(host / "seen"), None, flags)),
            failure(lambda: root._mount("tmpfs", "/tmp", "tmpfs", 0)),
            failure(lambda: os.chroot("/tmp")),
        ]

    assert in_root(lambda: wait_for(worker), user, [host / "seen"]) == ["EPERM"] * 3


def test_a_worker_with_all_capabilities_of_its_own_namespace_cannot_make_the_hosts_folders_writable(
    host: Path, user: int
) -> None:
    def worker() -> Any:
        namespaces.enter_worker()
        return failure(lambda: root._mount(None, str(host / "seen"), None, root.REMOUNT | root.BIND))

    assert in_root(lambda: wait_for(worker), user, [host / "seen"]) == "EPERM"
