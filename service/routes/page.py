"""GET / and its files: the web page, under a Content-Security-Policy that allows this server only."""

from pathlib import Path

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse

router = APIRouter(include_in_schema=False)

_FOLDER = Path(__file__).parents[1] / "page"
_FILES = {f.name: f for f in _FOLDER.iterdir() if f.suffix in {".html", ".js", ".css", ".svg", ".jpg", ".png"}}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache"}


@router.get("/")
async def page() -> FileResponse:
    """The page itself."""
    return FileResponse(_FILES["index.html"], headers=_HEADERS)


@router.get("/page/{name}")
async def page_file(name: str) -> FileResponse:
    """One of the page's files; only names that were in the folder at start."""
    if name not in _FILES:
        raise HTTPException(404)
    return FileResponse(_FILES[name], headers=_HEADERS)
