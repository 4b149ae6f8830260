"""What the recipe widget looks like: fields and buttons, laid out; nothing of what they do."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtGui import QFontDatabase
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from cellkit.napari.form import Form

__all__ = ["Panel"]

_WRONG = "color: #ff8c69;"


class Panel(QWidget):
    """The fields of the recipe widget, by name."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.recipe, self.image, self.layer, self.labels = (_combo() for _ in range(4))
        self.open_recipe = _button("Open…", "A recipe of your own: a YAML file")
        self.save_recipe = _button("Save…", "Write the recipe with your changes as a YAML file")
        self.reset = _button("Reset", "All parameters as the recipe has them")
        self.about, self.note, self.status, self.wrong = (_text() for _ in range(4))
        self.wrong.setStyleSheet(_WRONG)
        self.form = Form()
        self.preview = QCheckBox("Preview")
        self.preview.setToolTip("Carry the recipe out on what the canvas shows, at full resolution")
        self.out = QLineEdit()
        self.out.setPlaceholderText("folder for the results")
        self.choose_out = _button("…", "Choose the folder for the results")
        self.command = QPlainTextEdit()
        self.command.setReadOnly(True)
        self.command.setFont(QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont))
        self.command.setFixedHeight(64)
        self.copy = _button("Copy", "Copy the command")
        self.run = _button("Run", "Run the recipe on the whole image, as the command does, and add what it makes")
        self.save_image = _button("Save image…", "Write the image to a file, which the command needs")
        self.save_truth = _button(
            "Save as truth…",
            "Write these labels and their image as a data set for `cellkit eval` and `cellkit train`",
        )
        self._arrange()

    def _arrange(self) -> None:
        scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        scroll.setWidget(self.form)
        scroll.setMinimumHeight(140)
        scroll.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)
        top = _form()
        top.addRow("Recipe", _row(self.recipe, self.open_recipe, self.save_recipe))
        top.addRow("Image", self.image)
        bottom = _form()
        bottom.addRow("Results", _row(self.out, self.choose_out))
        bottom.addRow("Command", _row(self.command, self.copy))
        truth = _form()
        truth.addRow("Labels", _row(self.labels, self.save_truth))
        column = QVBoxLayout(self)
        column.setContentsMargins(6, 6, 6, 6)
        column.setSpacing(4)
        column.addLayout(top)
        column.addWidget(self.about)
        column.addWidget(self.note)
        column.addWidget(scroll, 1)
        column.addLayout(_line(self.preview, self.layer, self.reset))
        column.addWidget(self.status)
        column.addWidget(self.wrong)
        column.addLayout(bottom)
        column.addLayout(_line(self.run, self.save_image))
        column.addLayout(truth)
        self.setMinimumWidth(340)


def _combo() -> QComboBox:
    combo = QComboBox()
    combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    combo.setMinimumContentsLength(8)
    return combo


def _button(text: str, says: str) -> QPushButton:
    button = QPushButton(text)
    button.setToolTip(says)
    return button


def _text() -> QLabel:
    label = QLabel()
    label.setWordWrap(True)
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    label.hide()
    return label


def _form() -> QFormLayout:
    form = QFormLayout()
    form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    return form


def _row(field: QWidget, *buttons: QWidget) -> QWidget:
    box = QWidget()
    row = QHBoxLayout(box)
    row.setContentsMargins(0, 0, 0, 0)
    row.setSpacing(4)
    row.addWidget(field, 1)
    for button in buttons:
        row.addWidget(button)
    return box


def _line(first: QWidget, *rest: QWidget) -> QHBoxLayout:
    line = QHBoxLayout()
    for widget in (first, *rest):
        line.addWidget(widget, 1)
    return line
