"""The parameters of a recipe as a form, made of what the signatures of its stages say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QWheelEvent
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from cellkit.core.errors import UsageError
from cellkit.napari.editing import Knob, Row, editor, parsed, written

__all__ = ["Form"]

_MOST = 2**31 - 1
_INDENT = 14
Tell = Callable[[Any], None]


class _Calm:
    """A field that the wheel changes only while it has the focus, so that scrolling the form changes nothing."""

    def wheelEvent(self, event: QWheelEvent) -> None:  # noqa: N802 - Qt's name
        if self.hasFocus():  # type: ignore[attr-defined]
            super().wheelEvent(event)  # type: ignore[misc]
        else:
            event.ignore()


class _Number(_Calm, QDoubleSpinBox):
    """Any number, shown with no more digits than it has."""

    def textFromValue(self, value: float) -> str:  # noqa: N802 - Qt's name
        return f"{value:.10g}"


class _Whole(_Calm, QSpinBox):
    pass


class _Choice(_Calm, QComboBox):
    pass


class Form(QWidget):
    """The steps of a recipe with their parameters. `changed`: step, parameter and value; `wrong`: what does not fit."""

    changed = Signal(str, str, object)
    wrong = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._layout = QVBoxLayout(self)
        self._layout.setContentsMargins(2, 2, 2, 2)
        self._layout.setSpacing(2)
        self._names: dict[tuple[str, str], QLabel] = {}
        self.fields: dict[tuple[str, str], QWidget] = {}
        """The field of every parameter, by step and name."""

    def show_rows(self, rows: list[Row]) -> None:
        """Show other steps."""
        self._names.clear()
        self.fields.clear()
        while self._layout.count():
            item = self._layout.takeAt(0)
            if item is not None and item.widget() is not None:
                item.widget().deleteLater()
        for row in rows:
            self._layout.addWidget(self._step(row))
        self._layout.addStretch(1)

    def mark(self, rows: list[Row]) -> None:
        """Show which parameters differ from the recipe as it was opened."""
        for row in rows:
            for knob in row.knobs:
                label = self._names.get((row.label, knob.parameter.name))
                if label is not None:
                    _embolden(label, knob.changed)

    def _step(self, row: Row) -> QWidget:
        box = QWidget()
        form = QFormLayout(box)
        form.setContentsMargins(_INDENT * row.depth, 4, 0, 2)
        form.setVerticalSpacing(2)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        title = QLabel(row.title)
        _embolden(title, True)
        title.setToolTip(f"{row.summary}\n{row.locked}".strip())
        form.addRow(title)
        for knob in row.knobs:
            name = QLabel(f"   {knob.parameter.name}")
            _embolden(name, knob.changed)
            field = self._field(row.label, knob)
            field.setEnabled(not row.locked)
            for widget in (name, field):
                widget.setToolTip(row.locked or knob.says)
            form.addRow(name, field)
            if not row.locked:
                self._names[row.label, knob.parameter.name] = name
                self.fields[row.label, knob.parameter.name] = field
        return box

    def _field(self, label: str, knob: Knob) -> QWidget:
        name = knob.parameter.name

        def tell(value: Any) -> None:
            self.changed.emit(label, name, value)

        kind = editor(knob.parameter)
        if kind.kind == "flag":
            return _flag(knob, tell)
        if kind.kind == "choice":
            return _choice(knob, tell)
        if kind.kind == "text":
            return self._text(label, knob, tell)
        spin = _spin(knob, kind.kind == "whole")
        if not kind.optional:
            spin.valueChanged.connect(tell)
            return spin
        return _maybe(knob, spin, tell)

    def _text(self, label: str, knob: Knob, tell: Tell) -> QWidget:
        plain = isinstance(knob.value, str) or knob.parameter.type is str
        field = QLineEdit(knob.value if plain else written(knob.value))
        field.setCursorPosition(0)

        def finished() -> None:
            text = field.text()
            try:
                value = text if knob.parameter.type is str else parsed(text)
            except UsageError as error:
                self.wrong.emit(f"{label}.{knob.parameter.name}: {error}")
                return
            tell(value)

        field.editingFinished.connect(finished)
        return field


def _embolden(label: QLabel, bold: bool) -> None:
    font = label.font()
    font.setBold(bold)
    label.setFont(font)


def _flag(knob: Knob, tell: Tell) -> QWidget:
    field = QCheckBox()
    field.setChecked(bool(knob.value))
    field.toggled.connect(tell)
    return field


def _choice(knob: Knob, tell: Tell) -> QWidget:
    field = _Choice()
    choices = knob.parameter.choices
    field.addItems([str(choice) for choice in choices])
    field.setCurrentIndex(choices.index(knob.value) if knob.value in choices else -1)
    field.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
    field.currentIndexChanged.connect(lambda index: tell(choices[index]))
    return field


def _spin(knob: Knob, whole: bool) -> QSpinBox | QDoubleSpinBox:
    span = knob.parameter.span
    low, high = (span.low, span.high) if span is not None else (-_MOST, _MOST)
    field: QSpinBox | QDoubleSpinBox
    if whole:
        field = _Whole()
        field.setRange(int(max(low, -_MOST)), int(min(high, _MOST)))
    else:
        field = _Number()
        field.setDecimals(6)
        field.setRange(low, high)
    field.setStepType(QAbstractSpinBox.StepType.AdaptiveDecimalStepType)
    field.setKeyboardTracking(False)
    field.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
    if span is not None and span.unit:
        field.setSuffix(f" {span.unit}")
    value = knob.value if isinstance(knob.value, (int, float)) else max(low, 1 if whole else 1.0)
    field.setValue(int(value) if whole else float(value))
    return field


def _maybe(knob: Knob, spin: QSpinBox | QDoubleSpinBox, tell: Tell) -> QWidget:
    """Return a number with a tick before it, without which there is none."""
    box = QWidget()
    row = QHBoxLayout(box)
    row.setContentsMargins(0, 0, 0, 0)
    tick = QCheckBox()
    tick.setChecked(knob.value is not None)
    spin.setEnabled(tick.isChecked())
    row.addWidget(tick)
    row.addWidget(spin, 1)

    def told(*_: object) -> None:
        spin.setEnabled(tick.isChecked())
        tell(spin.value() if tick.isChecked() else None)

    tick.toggled.connect(told)
    spin.valueChanged.connect(told)
    return box
