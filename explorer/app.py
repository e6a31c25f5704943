"""The web application: every view as a page and as JSON, and error answers."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from explorer.catalog import Catalog, Limits, Place
from explorer.errors import ExplorerError, NotFoundError
from explorer.forms import Sent
from explorer.jobs import Attribute, Jobs
from explorer.links import PAGES, url
from explorer.meanings import Meanings
from explorer.notes import NotedFeature, Notes
from explorer.page import STATIC, Page, PageModel, as_json, environment, render, shell
from explorer.security import Access, Guard
from explorer.views import compare, drift, feature, features, graph, head, neighbours, overview, runs, search, tokens
from explorer.views.common import check_feature
from explorer.views.parameters import Checkpoint, Feature, Layer

VIEWS: dict[str, Callable[..., Page]] = {
    "overview": overview.overview,
    "feature": feature.feature_page,
    "neighbours": neighbours.neighbours_page,
    "features": features.feature_table,
    "search": search.search_page,
    "token": tokens.token_page,
    "tokens": tokens.tokens_named,
    "head": head.head_page,
    "compare": compare.compare_page,
    "pair": compare.pair_page,
    "graphs": graph.graphs_page,
    "graph": graph.graph_page,
    "drifts": drift.drifts_page,
    "drift": drift.drift_page,
    "runs": runs.runs_page,
}
"""For each page (and its template), the function that reads its content. Its parameters are those of the address."""

CACHED = {"Cache-Control": "private, no-cache"}


@dataclass(frozen=True)
class Settings:
    """Settings of the explorer."""

    catalog: Path
    access: Access = field(default_factory=Access)
    limits: Limits = field(default_factory=Limits)
    graphs: Path | None = None
    """Folder of attribution graphs, including those requested on a page."""
    notes: Path | None = None
    """File for people's notes on features; None: they cannot write any."""
    attribute: Attribute | None = None
    """Computes requested graphs; None: pages only show existing ones."""
    prefect: str | None = None
    """Address of Prefect's pages, for links from runs."""
    meanings: Meanings | None = None
    """Finds descriptions with similar meaning; None: only words are searched."""


class Explorer:
    """State shared by requests."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        place = Place(settings.catalog.parent, settings.graphs, settings.prefect, settings.meanings)
        self.catalog = Catalog(settings.catalog, settings.limits, place)
        self.notes = Notes(settings.notes) if settings.notes is not None else None
        self.jobs = None
        if settings.attribute is not None and settings.graphs is not None:
            self.jobs = Jobs(settings.attribute, settings.graphs)
        self._templates = environment(url)

    def render(self, page: Page, name: str, request: Request, status: int = 200) -> HTMLResponse:
        """A page as HTML; `name` is also the name of its template."""
        address = f"{request.url.path}?{request.url.query}".rstrip("?") if name in VIEWS else None
        served = {*VIEWS, *(("notes",) if self.notes is not None else ())}
        known = shell(self.settings.catalog.parent.name, self.catalog.checkpoints, served)
        if self.notes is not None and name == "feature" and page.checkpoint is not None:
            about = NotedFeature(page.checkpoint["checkpoint_id"], page.facts["layer"], page.facts["feature"])
            known["notes"] = self.notes.rows(about)
        if self.jobs is not None:
            known |= {"can_attribute": True, "jobs": self.jobs.jobs}
        return HTMLResponse(render(self._templates, page, name, known, address), status, CACHED)


def create_app(settings: Settings) -> FastAPI:
    """The explorer of one store.

    Raises:
        ValueError: there is no catalog, or a newer version of the software wrote it.
    """
    explorer = Explorer(settings)
    app = FastAPI(
        title="Circuit Insights explorer",
        description="Every page of the explorer as JSON: the same rows, each table with the SQL that made it.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
    )
    app.state.explorer = explorer
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    for name, view in VIEWS.items():
        _add_view(app, explorer, name, view)
    app.add_api_route("/", _home(explorer), include_in_schema=False)
    features.add_downloads(app, explorer.catalog)
    _add_graphs(app, explorer)
    if explorer.notes is not None:
        _add_notes(app, explorer, explorer.notes)
    _add_errors(app, explorer)
    app.add_middleware(Guard, access=settings.access)  # pyright: ignore[reportArgumentType]
    return app


def _home(explorer: Explorer) -> Callable[[Request], Response]:
    def home(request: Request) -> Response:
        """The newest checkpoint, or the list of them."""
        checkpoints = explorer.catalog.checkpoints
        if len(checkpoints) == 1:
            return RedirectResponse(url("overview", checkpoint=checkpoints[0]["checkpoint_id"]), 303)
        return explorer.render(Page("Checkpoints"), "home", request)

    return home


def _add_view(app: FastAPI, explorer: Explorer, name: str, view: Callable[..., Page]) -> None:
    """Serve a view as a page and, under /api, as JSON. The parameters after the reader are those of the address."""
    parameters = list(inspect.signature(view).parameters.values())[1:]
    described = inspect.signature(view).replace(parameters=parameters)
    asked = inspect.Parameter("request", inspect.Parameter.KEYWORD_ONLY, annotation=Request)

    def shown(request: Request, **given: object) -> Response:
        with explorer.catalog.reading() as reader:
            page = view(reader, **given)
        if page.elsewhere is not None:
            return RedirectResponse(page.elsewhere, 303)
        return explorer.render(page, name, request)

    def data(**given: object) -> JSONResponse:
        with explorer.catalog.reading() as reader:
            return JSONResponse(as_json(view(reader, **given)), headers=CACHED)

    shown.__signature__ = described.replace(  # pyright: ignore[reportFunctionMemberAccess]
        parameters=[*parameters, asked], return_annotation=HTMLResponse
    )
    data.__signature__ = described.replace(return_annotation=JSONResponse)  # pyright: ignore[reportFunctionMemberAccess]
    data.__doc__ = view.__doc__
    path = PAGES[name]
    app.add_api_route(path, shown, name=name, include_in_schema=False, response_class=HTMLResponse)
    app.add_api_route("/api" + path, data, name=f"{name} as JSON", response_model=PageModel)


def _add_graphs(app: FastAPI, explorer: Explorer) -> None:
    """Graphs as files, and the form that requests one."""

    def file(checkpoint: Checkpoint, name: graph.Name) -> JSONResponse:
        """An attribution graph in circuit-tracer's format."""
        with explorer.catalog.reading() as reader:
            return JSONResponse(graph.graph_file(reader, checkpoint, name), headers=CACHED)

    def attribute(checkpoint: Checkpoint, sent: Sent) -> RedirectResponse:
        if explorer.jobs is None:
            raise NotFoundError("this explorer only shows graphs: it has no model")
        with explorer.catalog.reading() as reader:
            row = reader.checkpoint(checkpoint)
        explorer.jobs.add(row["checkpoint_id"], sent.get("prompt", "").replace("\r\n", "\n"))
        return RedirectResponse(url("graphs", checkpoint=row["checkpoint_id"]), 303)

    app.add_api_route(PAGES["graph_file"], file, name="graph as a file")
    app.add_api_route(PAGES["attribute"], attribute, methods=["POST"], include_in_schema=False)


def _add_notes(app: FastAPI, explorer: Explorer, notes: Notes) -> None:
    """People's notes on features: the form, the list, and the list as a file."""

    def add(checkpoint: Checkpoint, layer: Layer, feature: Feature, sent: Sent) -> RedirectResponse:
        with explorer.catalog.reading() as reader:
            row = reader.checkpoint(checkpoint)
            check_feature(row, layer, feature)
        notes.add(NotedFeature(row["checkpoint_id"], layer, feature), sent)
        return RedirectResponse(url("feature", checkpoint=row["checkpoint_id"], layer=layer, feature=feature), 303)

    def listed(request: Request) -> HTMLResponse:
        return explorer.render(Page("Notes", facts={"notes": notes.rows()[:500]}), "notes", request)

    def file() -> StreamingResponse:
        """All notes, one JSON object on each line."""
        name = {"Content-Disposition": 'attachment; filename="notes.jsonl"'}
        return StreamingResponse(notes.jsonl(), media_type="application/x-ndjson", headers=name)

    app.add_api_route(PAGES["note"], add, methods=["POST"], include_in_schema=False)
    app.add_api_route(PAGES["notes"], listed, include_in_schema=False, response_class=HTMLResponse)
    app.add_api_route(PAGES["notes_jsonl"], file, include_in_schema=False)
    app.add_api_route("/api" + PAGES["notes_jsonl"], file, name="notes as a file")


def _add_errors(app: FastAPI, explorer: Explorer) -> None:
    """Every refusal is a sentence: a page for a browser, JSON for a program."""

    def error_answer(request: Request, status: int, sentence: str) -> Response:
        if request.url.path.startswith("/api"):
            return JSONResponse({"error": sentence}, status)
        return explorer.render(Page(sentence, facts={"status": status}), "error", request, status)

    def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, ExplorerError)
        return error_answer(request, error.status, str(error))

    def not_understood(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return error_answer(request, 400, "; ".join(map(_sentence, error.errors()[:5])))

    def missing(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        sentence = "there is no such page" if error.status_code == 404 else str(error.detail)
        return error_answer(request, error.status_code, sentence)

    app.add_exception_handler(ExplorerError, refused)
    app.add_exception_handler(RequestValidationError, not_understood)
    app.add_exception_handler(HTTPException, missing)


def _sentence(error: ErrorDetails) -> str:
    """What is wrong with one parameter, and the value given."""
    name = str(error["loc"][-1])
    given = repr(error["input"])[:80]
    return f"{name} is {given}; {error['msg'][0].lower()}{error['msg'][1:]}"
