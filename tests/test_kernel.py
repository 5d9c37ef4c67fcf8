"""A notebook's kernel: what is run in it can be interrupted, and leaves it alive and as it was."""

import queue
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


class Kernel:
    """A kernel of a folder's notebook."""

    def __init__(self, manager, client):
        self.manager, self.client = manager, client

    def run(self, code, interrupt_when=None):
        """The text that a cell shows, and the name of the error that ends it; interrupted once that says so."""
        cell, text, error = self.client.execute(code), "", None
        end, again = time.monotonic() + 100, float("inf")
        while time.monotonic() < end:
            assert self.manager.is_alive()
            if time.monotonic() > again:  # One that comes in a callback of the garbage collector is lost.
                again = time.monotonic() + 10
                self.manager.interrupt_kernel()
            try:
                message = self.client.get_iopub_msg(timeout=1)
            except queue.Empty:
                continue
            if message["parent_header"].get("msg_id") != cell:
                continue
            content = message["content"]
            if message["msg_type"] in ("stream", "display_data", "update_display_data"):
                text += content["text"] if "text" in content else content["data"]["text/plain"]
                if interrupt_when and interrupt_when(text):
                    interrupt_when, again = None, time.monotonic() + 10
                    self.manager.interrupt_kernel()
            elif message["msg_type"] == "error":
                error = content["ename"]
                text += content["evalue"]
            elif content.get("execution_state") == "idle":
                return text, error
        raise TimeoutError(text)


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    from jupyter_client.manager import start_new_kernel

    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(tmp_path), startup_timeout=100)
    yield Kernel(manager, client)
    client.stop_channels()
    manager.shutdown_kernel(now=True)


# The kernel's packages emit warnings that are not ours.
@pytest.mark.filterwarnings("default")
def test_an_interrupted_command_or_run_leaves_the_kernel_alive(kernel, trained):
    kernel.run("import signal; before, x = signal.getsignal(signal.SIGINT), 1")
    sample = f"{ROOT / 'sample.py'} --run {trained} --length 100000000 --mode state --temperature 0"
    text, error = kernel.run(f"%run {sample}", interrupt_when=lambda text: len(text) > 5000)
    assert error == "KeyboardInterrupt", text

    text, error = kernel.run(
        f"import dataclasses, jaxlm\n"
        f"config = dataclasses.replace(jaxlm.Run.open({str(trained)!r}).record.config, epochs=100_000)\n"
        f"jaxlm.train(config, run='fox', reporter=jaxlm.Terminal(jaxlm.WatchConfig(temperature=())))",
        interrupt_when=lambda text: "Epoch 1/" in text,
    )
    assert error == "KeyboardInterrupt", text
    assert "To resume: jaxlm.resume('checkpoints/fox')" in text
    assert "\r" not in text
    assert "\x1b[2K" not in text  # No line is drawn over.

    assert kernel.run("print(signal.getsignal(signal.SIGINT) is before, x)") == ("True 1\n", None)


@pytest.mark.filterwarnings("default")
def test_an_interrupted_cell_says_how_to_resume_and_run_again_it_does(kernel, corpus):
    cell = (
        "import jaxlm\n"
        f"jaxlm.train({str(corpus)!r}, run='fox', epochs=100_000, length=10, batch=32, hidden=16, temperature=())"
    )
    text, error = kernel.run(cell, interrupt_when=lambda text: "Epoch 2/" in text)
    assert error == "KeyboardInterrupt", text
    assert "To resume: jaxlm.resume('checkpoints/fox'), or run the cell again if it has run='fox'" in text
    text, error = kernel.run(cell, interrupt_when=lambda text: "Resuming from step " in text)
    assert error == "KeyboardInterrupt", text
    assert "Stopped and saved at step " in text
