"""The sandbox against programs that try to get out of it, in every way that works on this machine."""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.tasks import sandbox
from jobs.tasks.sandbox import Limits, Way, run

SHORT = Limits(seconds=20)  # of programs that end by themselves, on a machine that may be busy


def name_of(way: Way) -> str:
    extra = "bwrap" if way.bubblewrap else "userns" if way.user_namespace else "user" if way.drops_user else "plain"
    return f"{way.isolation}-{extra}"


WAYS = [pytest.param(way, marks=[pytest.mark.slow] if way != sandbox.best_way() else []) for way in sandbox.ways()]


@pytest.fixture(scope="module", params=WAYS, ids=[name_of(way) for way in sandbox.ways()])
def way(request: pytest.FixtureRequest) -> Way:
    one: Way = request.param
    try:
        outcome = run("print('ready')", limits=SHORT, way=one)
    except sandbox.SandboxFailed as error:
        pytest.skip(f"does not work here: {error}")
    if outcome.output != b"ready\n":
        pytest.skip(f"does not work here: {outcome.errors.decode()}")
    return one


@pytest.fixture
def victim() -> Iterator["subprocess.Popen[bytes]"]:
    environment = {**os.environ, "SECRET_KEY": "sk-of-the-victim"}
    process = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(120)"], env=environment)
    yield process
    process.kill()
    process.wait()


def printed(source: str, way: Way, stdin: bytes = b"") -> str:
    outcome = run(source, stdin, SHORT, way)
    assert outcome.isolation == way.isolation
    assert (outcome.end, outcome.code) == ("exited", 0), outcome.errors.decode()
    return outcome.output.decode().strip()


@pytest.mark.parametrize(
    ("source", "stdin", "output"),
    [
        ("print(sum(map(int, open(0).read().split())))", b"1 2\n3", "6"),
        ("import sys; print(sys.stdin.buffer.read())", b"\xff", r"b'\xff'"),
        ("print(input())", "日本".encode(), "日本"),
        ("import sys; print(sys.stdin.read() == '')", b"", "True"),
        ("import os; os.close(0); print(1)", b"1", "1"),
        ("import sys; print(sys.flags.isolated, __name__)", b"", "1 __main__"),
        ("import threading; t = threading.Thread(target=print, args=(7,)); t.start(); t.join()", b"", "7"),
        ("open('a', 'w').write('kept'); print(open('a').read())", b"", "kept"),
        ("import os; print(sorted(os.listdir('.')))", b"", "['main.py']"),
        ("import os; print(len(os.listdir('/proc/self/fd')) if os.path.isdir('/proc/self/fd') else 4)", b"", "4"),
    ],
)
def test_honest_programs(way: Way, source: str, stdin: bytes, output: str) -> None:
    assert printed(source, way, stdin) == output


def test_no_environment(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    found = printed("import os; print(*sorted(os.environ))", way).split()
    assert set(found) <= {"PATH", "LANG", "HOME", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "LD_LIBRARY_PATH"}


ENVIRONMENTS = """
import glob
for path in glob.glob('/proc/[0-9]*/environ') + ['/proc/VICTIM/environ', '/proc/1/environ']:
    try:
        print(open(path, 'rb').read())
    except OSError:
        pass
print('end')
"""


def test_no_environment_of_others(way: Way, victim: "subprocess.Popen[bytes]") -> None:
    if not (way.drops_user or way.isolation == "isolated"):
        pytest.skip("a user's own processes are open to it without mounts")
    text = printed(ENVIRONMENTS.replace("VICTIM", str(victim.pid)), way)
    assert "sk-of-the-victim" not in text and text.endswith("end")


FILES = """
import os, sys
for path in PATHS:
    try:
        print(path, os.listdir(path) if os.path.isdir(path) else open(path).read())
    except OSError as error:
        print(type(error).__name__)
"""


def test_no_files_of_others(way: Way, tmp_path: Path) -> None:
    """The home folder, /tmp, the repository's runs, ~/.kosen: they are not there."""
    if way.isolation != "isolated":
        pytest.skip("without mounts its user's files can be read")
    (tmp_path / "secrets.env").write_text("KEY=sk-secret")
    repository = Path(__file__).parents[3]
    paths = [tmp_path, tmp_path / "secrets.env", Path.home() / ".kosen", repository / "jobs", "/etc/passwd", "/sys"]
    text = printed(FILES.replace("PATHS", repr([str(path) for path in paths])), way)
    assert set(text.split()) == {"FileNotFoundError"}
    assert "sandbox_init" not in printed("import os; print(os.listdir('/tmp'))", way)


WRITES = """
import os, sys
for folder in ['/', '/usr', '/usr/lib', sys.prefix, sys.base_prefix, os.path.dirname(os.__file__), '/dev', '/etc']:
    for act in (lambda: open(folder + '/kosen-was-here', 'w'), lambda: os.mkdir(folder + '/kosen-was-here-too')):
        try:
            act()
            print('wrote', folder)
        except OSError:
            pass
print('end')
"""


def test_nothing_outside_can_be_written(way: Way) -> None:
    if way.isolation != "isolated":
        pytest.skip("without mounts its user's files can be written")
    assert printed(WRITES, way) == "end"


CONNECT = """
import socket
try:
    socket.create_connection(('127.0.0.1', PORT), timeout=5)
    print('connected')
except OSError as error:
    print('refused')
"""


def test_no_network(way: Way) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        text = printed(CONNECT.replace("PORT", str(listener.getsockname()[1])), way)
    assert text == ("connected" if way.isolation == "limits-only" else "refused")


BOMB = """
import os, time
count = 0
for _ in range(300):
    try:
        if os.fork() == 0:
            time.sleep(100)
            os._exit(0)
        count += 1
    except OSError:
        break
print(count)
"""


def gone(reader: int) -> bool:
    """Whether every process that held the other end of a pipe has ended, within 5 seconds."""
    return bool(select.select([reader], [], [], 5)[0]) and os.read(reader, 1) == b""


def test_a_fork_bomb_is_bounded_and_no_process_of_it_stays(way: Way) -> None:
    reader, writer = os.pipe()
    outcome = sandbox.start(BOMB, keep=(writer,), limits=SHORT, way=way).finish()
    os.close(writer)
    count = int(outcome.output)
    if os.geteuid() != 0 or way.drops_user:  # the kernel exempts root
        assert count <= SHORT.processes + 3000 * (way.isolation != "isolated")
    assert count > 10 and gone(reader)
    os.close(reader)


ORPHAN = """
import os, signal, time
for number in range(1, 32):
    if number not in (9, 19):
        signal.signal(number, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid()
        time.sleep(100)
    os._exit(0)
time.sleep(SECONDS)
"""


@pytest.mark.parametrize("seconds", [0.2, 100])
def test_a_child_does_not_survive(way: Way, seconds: float) -> None:
    """Neither where the program ends by itself nor where it is killed; whatever signals it ignores."""
    reader, writer = os.pipe()
    source = ORPHAN.replace("SECONDS", str(seconds))
    outcome = sandbox.start(source, keep=(writer,), limits=Limits(seconds=20 if seconds < 1 else 2), way=way).finish()
    os.close(writer)
    assert outcome.end == ("exited" if seconds < 1 else "timeout")
    assert gone(reader)
    os.close(reader)


DRIVER = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from jobs.tasks import sandbox
way = sandbox.ways()[int(sys.argv[2])]
running = sandbox.start(sys.argv[4], keep=(int(sys.argv[3]),), limits=sandbox.Limits(seconds=60), way=way)
time.sleep(1.5)
print("started", flush=True)
time.sleep(60)
"""


def test_nothing_survives_a_scoring_process_that_is_killed(way: Way) -> None:
    reader, writer = os.pipe()
    place = str(Path(__file__).parents[3])
    number = str(sandbox.ways().index(way))
    command = [sys.executable, "-c", DRIVER, place, number, str(writer), ORPHAN.replace("SECONDS", "100")]
    driver = subprocess.Popen(command, pass_fds=(writer,), stdout=subprocess.PIPE)
    os.close(writer)
    assert driver.stdout and driver.stdout.readline() == b"started\n"
    driver.kill()
    driver.wait()
    driver.stdout.close()
    assert gone(reader)
    os.close(reader)


KILL = """
import os
for number in (9, 19):
    try:
        os.kill(VICTIM, number)
    except OSError:
        pass
print('end')
"""


def test_others_cannot_be_killed(way: Way, victim: "subprocess.Popen[bytes]") -> None:
    if way.isolation == "limits-only" and not way.drops_user:
        pytest.skip("a user's own processes are open to it without a PID namespace")
    assert printed(KILL.replace("VICTIM", str(victim.pid)), way) == "end"
    if way.namespaces:  # process 1 is the sandbox's own
        assert printed(KILL.replace("VICTIM", "1"), way) == "end"
    assert victim.poll() is None


@pytest.mark.parametrize(
    ("source", "end", "code"),
    [
        ("while True: pass", "timeout", None),
        ("import time; time.sleep(100)", "timeout", None),
        ("while True: print('x' * 10000)", "flooded", None),
        ("import sys\nwhile True: sys.stderr.write('x' * 10000)", "timeout", None),
        ("import sys; sys.exit(3)", "exited", 3),
        ("import os; os._exit(0)", "exited", 0),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "exited", -signal.SIGKILL),
        ("x = bytearray(5 * 2 ** 30)", "exited", 1),
        ("import mmap\nx = []\nwhile True: x.append(mmap.mmap(-1, 2 ** 28))", "exited", 1),
        ("f = open('big', 'wb')\nfor _ in range(64): f.write(bytes(2 ** 20))", "exited", None),
        ("fs = [open('main.py') for _ in range(100)]", "exited", 1),
        ("def f(): f()\nf()", "exited", 1),
        ("this is not Python", "exited", 1),
        ("import os; print('ready'); os.write(2, b'exit 0'); 1 / 0", "exited", 1),
    ],
)
def test_how_programs_end(way: Way, source: str, end: str, code: int | None) -> None:
    limits = Limits(seconds=2 if end == "timeout" else 20)
    began = time.monotonic()
    outcome = run(source, limits=limits, way=way)
    assert outcome.end == end and len(outcome.output) <= limits.output and len(outcome.errors) <= 2**14
    if code is not None or end != "exited":
        assert outcome.code == code, outcome.errors
    else:
        assert outcome.code not in (0, None)
    assert time.monotonic() - began < limits.seconds + 10


DISK = """
written = 0
try:
    for number in range(200):
        with open(f'{number}', 'wb') as file:
            file.write(bytes(2 ** 20))
        written += 1
except OSError:
    pass
print(written)
"""


def test_the_disk_is_bounded(way: Way) -> None:
    if way.isolation != "isolated":
        pytest.skip("only a single file is limited without mounts")
    assert int(printed(DISK, way)) < 64


def test_no_folder_stays(way: Way) -> None:
    before = set(Path("/tmp").glob("kosen-sandbox-*"))
    run("import os; os.mkdir('a'); open('a/b', 'w').close(); os.chmod('a', 0)", limits=SHORT, way=way)
    mine = [path for path in set(Path("/tmp").glob("kosen-sandbox-*")) - before if path.stat().st_uid == os.getuid()]
    assert not [path for path in mine if (path / "a").exists()]


def test_the_best_way_is_used() -> None:
    assert run("print(1)").isolation == sandbox.best_way().isolation
