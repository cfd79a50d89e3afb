"""Renditions by the engine, proved by it."""

from pathlib import Path

from dicomferry.spool.instance import RenditionSpec
from workers.transcode import Report, transcode


def made(source: Path, uid: str, folder: Path, **settings: float) -> tuple[Path, Report]:
    target = folder / f"{source.stem}.{uid}.out"
    return target, transcode(source, target, RenditionSpec(uid, **settings), verify="always")


def rendition(source: Path, uid: str, folder: Path, **settings: float) -> Path:
    return made(source, uid, folder, **settings)[0]
