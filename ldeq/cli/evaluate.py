"""``ldeq eval``."""

from __future__ import annotations

from ..data import CROP_RULES, Faces, LandmarkDataset, open_faces
from ..data.shared import in_layout
from ..data.sources import is_video_spec, open_videos, source_folder
from ..engine import evaluate, load_pretrained
from ..engine.console import Console
from ..engine.device import resolve_device
from ..engine.report import REPORT, is_report, markdown_table, write_report
from ..engine.settings import SettingsError
from ..engine.weights import Pretrained, find_weights
from ..landmarker import checked_engine, threads_for
from ..models import LDEQ
from ..spelling import did_you_mean
from ..threads import apply_threads
from ..video import evaluation as videos
from ..video.filters import FILTERS, Filter, filter_from_text
from ..video.tracking import Tracker, TrackingSettings
from .arguments.evaluate import EvalArguments
from .outputs import Outputs


class Eval(EvalArguments):
    def run(self) -> int:
        self._check_numbers()
        device = resolve_device(self.device)
        engine = checked_engine(self.engine, device)
        self._check_report()
        if device.type == "cpu":
            apply_threads(threads_for(engine))
        pretrained = load_pretrained(self.model, device)
        pretrained.model.engine = engine
        if is_video_spec(self.data):
            return self._run_videos(pretrained)
        for option in ("rwr", "released", "baseline", "smooth", "jitter"):
            if getattr(self, option):
                raise SettingsError(f"--{option} is for videos, and {self.data!r} holds pictures: pass --data wflw-v:FOLDER")
        model = _with_solver(pretrained.model, self.max_iter, self.tol, self.stop)
        dataset = LandmarkDataset(
            in_layout(open_faces(self.data, self.split or "test"), pretrained.layout),
            model.config.image_size,
            crop=self.crop or pretrained.crop_rule,  # type: ignore[arg-type]
            crop_scale=self.crop_scale or pretrained.crop_scale,
            on_error="replace",
        )
        wanted = self._wanted_subsets(dataset.faces)
        console = Console()
        with console.counting(f"{pretrained.name} on {device}", len(dataset)) as count:
            evaluation = evaluate(
                model,
                dataset,
                batch=self.batch,
                workers=self.workers,
                amp=self.amp,
                weights=f"model {pretrained.name}",
                progress=count,
            )
        print(markdown_table(evaluation, wanted), end="")
        if self.report:
            for path in write_report(evaluation, dataset, self.report, wanted):
                console.say(f"wrote {path}")
        return 0

    def _wanted_subsets(self, faces: Faces) -> list[str]:
        """
        Raises:
            SettingsError: for a subset that no face belongs to, before anything is scored.
        """
        records = [faces.record(i) for i in range(len(faces))]
        known = list(dict.fromkeys(name for record in records for name, value in record.attributes.items() if value))
        wanted = {"all": known, "none": []}.get(self.subsets, self.subsets.split(","))
        for name in wanted:
            if name not in known:
                raise SettingsError(
                    f"the data has no subset {name!r}{did_you_mean(name, known)}; it has {', '.join(known) or 'none'}"
                )
        return wanted

    def _check_numbers(self) -> None:
        if self.crop is not None and self.crop not in CROP_RULES:
            raise SettingsError(
                f"--crop must be one of {', '.join(CROP_RULES)}, got {self.crop!r}{did_you_mean(self.crop, CROP_RULES)}"
            )
        for option, (value, low, high) in {
            "crop-scale": (self.crop_scale, 0.1, 100),
            "max-iter": (self.max_iter, 0, 10**6),
            "batch": (self.batch, 1, 10**6),
            "workers": (self.workers, 0, 1024),
            "iters": (self.iters, 1, 10**6),
            "jitter": (self.jitter, 0, 10),
        }.items():
            if value is not None and not low <= value <= high:
                raise SettingsError(f"--{option} must lie between {low} and {high}, got {value}")

    def _check_report(self) -> None:
        if not self.report:
            return
        outputs = Outputs()
        outputs.protect(find_weights(self.model), "the file of the model")
        if folder := source_folder(self.data):
            outputs.protect_folder(folder, "the data set")
        names = videos.REPORT if is_video_spec(self.data) else REPORT
        report = outputs.folder("--report", self.report, names)
        strange = [name for name in names if (report / name).exists()]
        if strange and not is_report(report):
            raise SettingsError(f"{report / strange[0]} exists, and ldeq eval did not make it; choose another --report")

    def _run_videos(self, pretrained: Pretrained) -> int:
        data, console = open_videos(self.data, self.split), Console()
        for path, reason in data.skipped:
            console.warn(f"{path} is left out: {reason}")
        scale = self.crop_scale or pretrained.crop_scale
        first, second = split_filters(self.baseline), split_filters(self.smooth)
        try:
            for name in (*first, *second):
                filter_from_text(name, data.layout)
        except ValueError as error:
            raise SettingsError(str(error)) from None
        recurrent = self.rwr or self.released
        runs = [("each frame alone", TrackingSettings(rwr=False), first + ([] if recurrent else second))]
        if self.rwr:
            runs.append((f"RwR, {self.iters} evaluation" + "s" * (self.iters > 1), TrackingSettings(iters=self.iters), second))
        if self.released:
            runs.append(("RwR as released", TrackingSettings.released(), second))
        tracks: dict[str, list[videos.VideoTrack]] = {}
        protocol = ""
        for name, settings, filters in runs:
            tracker = Tracker(pretrained.model, scale, settings)
            total = sum(len(record) for record in data.records)
            with console.counting(name, total) as count:
                tracks[name] = videos.track_videos(tracker, data, self.boxes, self.jitter, batch=self.batch, progress=count)
            protocol = videos.protocol_line(data, tracker, self.boxes, self.jitter, f"model {pretrained.name}")
            for kind in dict.fromkeys(filters):
                smooth: Filter = filter_from_text(kind, data.layout)
                tracks[f"{name} + {kind}"] = [track.filtered(smooth) for track in tracks[name]]
        scores = {name: videos.score(pipeline, data.layout, protocol) for name, pipeline in tracks.items()}
        print(videos.markdown_table(scores), end="")
        if self.report:
            for written in videos.write_report(scores, tracks, self.report):
                console.say(f"wrote {written}")
        return 0


def split_filters(names: str | None) -> list[str]:
    """Filters with commas between them, each with the settings that follow its name: ``one-euro,beta=20,ema`` is two.

    A missing hyphen in a name is forgiven, as in oneeuro.
    """
    plain = {name.replace("-", ""): name for name in FILTERS}
    found: list[str] = []
    for item in (part.strip() for part in (names or "").split(",")):
        if "=" in item and found:
            found[-1] += f",{item}"
        elif item:
            found.append(plain.get(item.replace("-", ""), item))
    return found


def _with_solver(model: LDEQ, max_iter: int | None, tol: float | None, stop: str | None) -> LDEQ:
    if stop is not None and tol is None and stop != model.config.stop:
        raise SettingsError(
            f"--stop {stop} needs --tol: the model's own, {model.config.tol:g}, is for --stop {model.config.stop}"
        )
    try:
        return model.with_solver(max_iter=max_iter, tol=tol, stop=stop)
    except ValueError as error:
        raise SettingsError(str(error)) from error
