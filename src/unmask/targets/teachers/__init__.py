"""Concrete teachers, and how they are named."""

from unmask.targets.teachers.create import create_teacher
from unmask.targets.teachers.encoders import EncoderTeacher
from unmask.targets.teachers.lite0 import LITE0
from unmask.targets.teachers.maps import MapTeacher

__all__ = ["LITE0", "EncoderTeacher", "MapTeacher", "create_teacher"]
