"""``vesselseg app`` up to the moment at which it serves; tests/app has the page."""

import asyncio
import gc
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
import requests
from support import wait_for

from vesselseg.cli import app, main


def needs_extra():
    for name in ("starlette", "uvicorn"):
        pytest.importorskip(name, reason="the extra app is not installed")


@pytest.fixture
def command():
    """Start ``vesselseg app``; its process, and the address that it prints."""
    needs_extra()
    started = []

    def start(*options):
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "vesselseg", "app", "--device", "cpu", *options],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        line = process.stdout.readline()
        return process, re.fullmatch(r"vesselseg: (http://\S+/) \(Ctrl-C ends it\)\n", line)[1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_listens_here_alone_opens_the_browser_and_ends_quietly_with_ctrl_c(
    command, tmp_path, monkeypatch
):
    script = tmp_path / "browser"
    script.write_text(f"#!/bin/sh\necho $1 > {tmp_path / 'opened'}\n")
    script.chmod(0o755)
    monkeypatch.setenv("BROWSER", str(script))
    process, url = command("--port", "0", "--open")
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url)
    settings = requests.get(f"{url}settings", timeout=30).json()
    assert settings["models"][0]["label"] == "Any camera (built in)"
    assert settings["max_upload"] == 50_000_000
    assert requests.get(url, headers={"Host": "example.org"}, timeout=30).status_code == 400
    assert "server" not in requests.get(url, timeout=30).headers
    opened = tmp_path / "opened"
    assert wait_for(lambda: opened.exists() and opened.read_text()) == f"{url}\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (0, "")


@pytest.mark.slow
def test_ctrl_c_before_the_first_request_ends_quietly_too(monkeypatch, recwarn):
    def interrupt():
        raise KeyboardInterrupt

    needs_extra()
    for owner, name in ((asyncio, "SelectorEventLoop"), (asyncio.events, "new_event_loop")):
        monkeypatch.setattr(owner, name, interrupt)
    assert main(["app", "--port", "0", "--device", "cpu"]) == 0
    gc.collect()
    assert [str(warning.message) for warning in recwarn] == []


@pytest.mark.slow
def test_another_address_a_limit_and_a_model_file_can_be_chosen(command, model, tmp_path):
    model.save(tmp_path / "mine.pth")
    process, url = command("--host", "0.0.0.0", "--port", "0", "--max-upload", "3",
                           "--model", str(tmp_path / "mine.pth"))  # fmt: skip
    settings = requests.get(f"{url}settings", timeout=30).json()
    assert settings["models"][0]["label"] == "narrow (mine.pth)"
    assert settings["max_upload"] == 3_000_000
    assert requests.get(url, headers={"Host": "my-computer"}, timeout=30).status_code == 200
    process.send_signal(signal.SIGINT)
    assert "there is no password and nothing is encrypted" in process.communicate(timeout=30)[1]


@pytest.mark.slow
def test_names_and_root_path_of_a_proxy_are_accepted_and_a_quiet_command_warns_of_nothing(command):
    process, url = command(
        "--host", "0.0.0.0", "--port", "0", "--allow-host", "Eye.example",
        "--allow-host", "eye.local", "--root-path", "/vessels/", "--quiet",
    )  # fmt: skip
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/vessels/", url)
    assert requests.get(url, timeout=30).status_code == 200
    for name in ("eye.example", "eye.local"):
        headers = {"Host": name, "Origin": f"https://{name}"}
        assert requests.get(f"{url}settings", headers=headers, timeout=30).status_code == 200
    answer = requests.get(url, headers={"Host": "other.example"}, timeout=30)
    assert answer.status_code == 400
    assert "--allow-host other.example" in answer.text
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[1] == ""


def test_port_in_use_is_reported(capsys):
    needs_extra()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["app", "--port", str(port)]) == 2
    told = capsys.readouterr().err
    assert f"Cannot listen at port {port} of '127.0.0.1'" in told
    assert "--port 0" in told


def test_model_that_does_not_exist_is_reported_before_anything_is_served(capsys):
    needs_extra()
    assert main(["app", "--port", "0", "--model", "unet"]) == 2
    assert "There is no model 'unet'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ["--port", "70000"],
        ["--port", "web"],
        ["--max-upload", "0"],
        ["--allow-host", "https://eye.example/"],
        ["--allow-host", "eye.example:8000"],
        ["--allow-host", "*"],
        ["--root-path", "vessels"],
        ["--root-path", "/a?b"],
    ],
)
def test_wrong_values_are_rejected(options, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["app", *options])
    assert ended.value.code == 2
    assert options[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80/"),
        ("localhost", "http://localhost:80/"),
        ("::1", "http://[::1]:80/"),
        ("0.0.0.0", "http://127.0.0.1:80/"),
        ("::", "http://[::1]:80/"),
        ("192.0.2.7", "http://192.0.2.7:80/"),
    ],
)
def test_the_address_to_open_is_one_that_a_browser_reaches(host, url):
    assert app.to_url(host, 80) == url


@pytest.mark.slow
def test_a_stalled_upload_does_not_keep_the_server_from_ending(command):
    process, url = command("--port", "0")
    port = int(url.split(":")[-1].strip("/"))
    with socket.create_connection(("127.0.0.1", port)) as stalled:
        stalled.sendall(b"POST /segment HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\nx")
        time.sleep(0.5)
        process.terminate()
        process.wait(timeout=60)
