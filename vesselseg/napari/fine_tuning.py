"""The part of the widget "Correct retinal vessels" that fine-tunes on the corrections."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from magicgui.widgets import (
    CheckBox,
    Container,
    FileEdit,
    Label,
    LineEdit,
    ProgressBar,
    PushButton,
    SpinBox,
)
from napari.utils.notifications import show_error
from qtpy.compat import isalive
from qtpy.QtCore import QProcess
from qtpy.QtWidgets import QDialog, QSizePolicy, QTextBrowser, QVBoxLayout

from ..files import exists
from .learning import Start, TrainingOutput, is_interrupted, suggest_output, training_arguments


class FineTuning(Container):  # type: ignore[misc] # magicgui has no types where it is missing
    """Fine-tunes in a process of its own, which can be cancelled and resumed.

    `find_start` returns what to start from, or None after a message. `use` is called with the
    model file when it is written, and what it was fine-tuned from.
    """

    def __init__(
        self, find_start: Callable[[], Start | None], use: Callable[[Path, str | Path], None]
    ) -> None:
        super().__init__(labels=False)
        self.find_start = find_start
        self.use = use
        self.process: QProcess | None = None
        self.said = TrainingOutput()
        self.running_output = Path()  # what the process writes
        self.running_model: str | Path = ""  # what it starts from
        self.card: QDialog | None = None  # shown last
        self.output = FileEdit(
            label="New model", mode="w", filter="Models (*.pth)",
            tooltip="The model file to write, and beside it a model card",
        )  # fmt: skip
        self.group = LineEdit(
            label="Subjects",
            tooltip="A regular expression for file names whose group names the subject, for "
            "example (.+)_[LR]. Empty: every photograph is a subject of its own",
        )
        self.iterations = SpinBox(label="Iterations", value=300, min=1, max=100_000)
        self.restart = CheckBox(
            text="Start from the beginning", visible=False,
            tooltip="Instead of resuming a fine-tuning that was cancelled",
        )  # fmt: skip
        self.start_button = PushButton(text="Fine-tune on corrected photographs")
        self.cancel_button = PushButton(
            text="Cancel", enabled=False, tooltip="A later start resumes from the last measurement"
        )
        self.progress = ProgressBar(visible=False)
        self.message = Label(value="")
        self.extend(
            [
                Container(widgets=[self.output, self.group, self.iterations]),
                self.restart,
                self.start_button,
                self.cancel_button,
                self.progress,
                self.message,
            ]
        )
        self.message.native.setWordWrap(True)
        policy = self.message.native.sizePolicy()
        policy.setHorizontalPolicy(QSizePolicy.Policy.Ignored)  # lines as long as there is room
        policy.setVerticalPolicy(QSizePolicy.Policy.Preferred)  # and as many as they need
        self.message.native.setSizePolicy(policy)
        self.output.changed.connect(self.refresh)
        self.start_button.changed.connect(self.start)
        self.cancel_button.changed.connect(self.cancel)

    def suggest(self, folder: Path) -> None:
        """Suggest a model file in a folder that was opened."""
        self.output.value = suggest_output(folder)
        self.refresh()

    def start(self) -> None:
        """Start or resume the process."""
        output = Path(self.output.value)
        if exists(output):
            show_error(f"{str(output)!r} exists. Choose another file for the new model.")
            return
        start = self.find_start()
        if start is None:
            return
        self.running_output = output
        self.running_model = start.model
        self.said = TrainingOutput()
        arguments = training_arguments(
            start,
            self.running_output,
            group=self.group.value,
            iterations=self.iterations.value,
            restart=self.restart.value,
        )
        process = QProcess(self.native)
        process.setProcessChannelMode(QProcess.ProcessChannelMode.MergedChannels)
        process.readyReadStandardOutput.connect(self.read)
        process.finished.connect(self.end)
        process.errorOccurred.connect(self.fail_to_start)
        self.process = process
        self.message.value = self.said.summary
        process.start(sys.executable, arguments)
        self.refresh()

    def cancel(self) -> None:
        """End the process; what it last measured is kept in a file, to be resumed."""
        process, self.process = self.process, None
        if process is not None and isalive(process):
            process.kill()
            process.waitForFinished(5000)
        if isalive(self.native):
            self.message.value = "Cancelled."
            self.refresh()
            if self.restart.visible:
                self.message.value += " It can be resumed with the same settings."

    def read(self) -> None:
        """Show what the process says."""
        if self.process is None or not isalive(self.process):
            return
        self.said.add(bytes(self.process.readAllStandardOutput()))
        self.message.value = self.said.summary
        if self.said.iteration is not None:
            self.progress.max = self.iterations.value
            self.progress.value = self.said.iteration

    def fail_to_start(self, error: Any) -> None:
        """Show that there could be no process; what else goes wrong is shown at its end."""
        if error == QProcess.ProcessError.FailedToStart:
            show_error(f"{sys.executable!r} cannot be started.")
            self.process = None
            self.refresh()

    def end(self, code: int, status: Any) -> None:
        """Show the card and use the model, or show why there is none."""
        if self.process is None or not isalive(self.process):  # cancelled, or napari was closed
            return
        self.read()
        self.process = None
        self.restart.value = False
        if code or status != QProcess.ExitStatus.NormalExit:
            self.message.value = f"Fine-tuning failed: {self.said.last_lines}"
            show_error(self.message.value)
            self.refresh()
            return
        output = self.running_output
        self.message.value = f"{self.said.summary} {output.name} is the model now."
        self.show_card(output.with_suffix(".md"))
        self.use(output, self.running_model)
        self.suggest(output.parent)

    def show_card(self, path: Path) -> None:
        """Show a model card: Dice before and after, and which subjects were held out."""
        self.card = QDialog(self.native)
        self.card.setWindowTitle(path.name)
        self.card.resize(700, 600)
        text = QTextBrowser()
        text.setMarkdown(path.read_text(encoding="utf-8"))
        QVBoxLayout(self.card).addWidget(text)
        self.card.show()

    def refresh(self) -> None:
        """Show whether there is a process, and whether one can be resumed."""
        is_running = self.process is not None
        can_resume = not is_running and is_interrupted(Path(self.output.value))
        self.start_button.text = (
            "Resume fine-tuning" if can_resume else "Fine-tune on corrected photographs"
        )
        self.restart.visible = can_resume
        self.start_button.enabled = self.iterations.enabled = not is_running
        self.cancel_button.enabled = is_running
        if is_running != self.progress.visible:
            self.progress.value = self.progress.max = 0  # busy, until the first measurement
            self.progress.visible = is_running
