// The page: one state, changed by actions, and drawn by render(), which takes everything that it
// shows of a photograph from that photograph's own object. Nothing else changes what is shown.
//
// Every photograph is segmented once. The browser gets its probabilities, float32, and applies the
// threshold as the library does; only downloads are computed by the library itself.

import { FITTED, drawFov, drawVessels, listen, toFull, zoomAt } from "./picture.js";
import { ask, forget, loadImage, loadPixels, resultFile, segment } from "./requests.js";
import { makeZip, toCsv, toJsonLines } from "./zip.js";

const HELD_PIXELS = 40e6; // of photographs that are ready to be shown; others are loaded again
const ZIP_BYTES = 2e9; // after which another zip is begun

const by = (id) => document.getElementById(id);

const state = {
  photos: [], // in the order in which they were added; newPhoto() says what they are
  selected: null, // one of them
  chosen: { model: "", bits: "" }, // for photographs that are added
  view: {}, // show, style, color, threshold and so on: of whichever picture is shown
  zoom: FITTED, // of the selected photograph
  settings: { models: [], max_upload: Infinity, no_measures: "" }, // of the server
  notice: "", // about the page, never about a photograph
  zip: null, // {done, total, abort} while one is collected
};

function newPhoto(file) {
  const name = unique(file.name, "name");
  return {
    file,
    name,
    stem: unique(file.name.replace(/(?<=.)\.[^.]*$/, ""), "stem"), // of downloads
    ...state.chosen, // model and bits
    status: "waiting", // then "working", then "done", "failed" or "cancelled"
    error: "",
    started: 0, // when the work began, in milliseconds
    abort: null, // the AbortController of the work
    preview: null, // an image of the file, if the browser can decode it
    result: null, // what the server said: token, label, width, height, seconds, provenance, ...
    pixels: null, // what is needed to draw it; released if many others are
    measured: null, // what was measured: {key, image, table, error}, once it was asked for
    shown: 0, // when it was shown last
    entry: null, // its line in the list
  };
}

/** A name that no other photograph has: "eye.jpg", then "eye.jpg (2)". */
function unique(wanted, field) {
  // Eye and eye would be one file where the zip is unpacked on Windows or macOS.
  const used = new Set(state.photos.map((photo) => photo[field].toLowerCase()));
  let name = wanted;
  for (let n = 2; used.has(name.toLowerCase()); n++) name = `${wanted} (${n})`;
  return name;
}

// ---- Actions ----

function add(files) {
  state.notice = files.length ? "" : "There was no file. Drop image files, not text or links.";
  let first = null;
  for (const file of files) {
    const same = state.photos.find(
      (photo) => ["name", "size", "lastModified"].every((key) => photo.file[key] === file[key]),
    );
    const photo = same ?? newPhoto(file);
    if (!same) state.photos.push(photo);
    first ??= photo;
  }
  if (first && state.selected?.status !== "working") select(first);
  work();
}

function select(photo) {
  state.selected = photo;
  state.zoom = FITTED;
  if (photo) showPreview(photo);
  if (photo?.status === "done" && !photo.pixels) restore(photo);
  render();
}

function showPreview(photo) {
  if (photo.preview) return;
  const image = new Image();
  const url = URL.createObjectURL(photo.file);
  image.alt = "The photograph";
  image.onload = () => {
    URL.revokeObjectURL(url);
    photo.preview = image;
    render();
  };
  image.onerror = () => URL.revokeObjectURL(url);
  image.src = url;
}

let isWorking = false;

/** Segment the photographs that wait, one after another, the selected one first. */
async function work() {
  if (isWorking) return;
  isWorking = true;
  const isWaiting = (photo) => photo?.status === "waiting";
  for (;;) {
    const photo = isWaiting(state.selected) ? state.selected : state.photos.find(isWaiting);
    if (!photo) break;
    await segmentPhoto(photo);
  }
  isWorking = false;
  render();
}

async function segmentPhoto(photo) {
  const abort = new AbortController();
  Object.assign(photo, { status: "working", error: "", started: Date.now(), abort });
  render();
  try {
    const { size } = photo.file;
    const limit = state.settings.max_upload;
    if (size > limit) {
      const [own, most] = [size, limit].map((bytes) => bytes / 1e6);
      throw new Error(`The file has ${own.toFixed(1)} MB; at most ${most} MB are accepted (--max-upload).`);
    }
    const result = await segment(photo.file, photo.model, photo.bits, abort.signal);
    const fresh = { file: photo.file, result };
    const pixels = await loadPixels(fresh, abort.signal);
    abort.signal.throwIfAborted();
    forget([photo]);
    Object.assign(photo, { status: "done", result: fresh.result, pixels, shown: Date.now() });
    releasePixels();
  } catch (error) {
    if (abort.signal.aborted) return; // cancel() or remove() has said what follows
    forget([photo]);
    Object.assign(photo, { status: "failed", error: error.message, result: null, pixels: null });
  }
  render();
}

/** Load what a result is drawn from, if it was released. */
async function restore(photo) {
  try {
    const held = await hold(photo, async (same) => (same.pixels = await loadPixels(same)));
    if (photo.result === held.result) photo.pixels = held.pixels;
    else if (photo.status === "done" && !photo.pixels) return restore(photo);
    releasePixels();
  } catch (error) {
    photo.error = error.message;
  }
  render();
}

/**
 * Use a copy of a photograph with the result that it has now, so that nothing of another result is
 * mixed in if it is segmented again in the meantime; the copy.
 */
async function hold(photo, use) {
  const held = { ...photo };
  const { result } = held;
  await use(held);
  if (photo.result === result) photo.result = held.result; // with another token, if it was released
  else if (held.result !== result) forget([held]);
  return held;
}

function releasePixels() {
  let held = 0;
  if (state.selected) state.selected.shown = Date.now();
  for (const photo of [...state.photos].sort((a, b) => b.shown - a.shown)) {
    if (!photo.pixels) continue;
    held += photo.pixels.width * photo.pixels.height;
    if (held > HELD_PIXELS && photo !== state.selected) photo.pixels = photo.preview = photo.measured = null;
  }
}

/** What the measures that are shown depend on. */
function keyOf({ result }) {
  const { threshold, colorBy, mm } = state.view;
  return JSON.stringify([result?.token, threshold, colorBy, mm]);
}

let isMeasuring = false;

/** Measure the selected photograph as the view says, if it is to be shown and was not yet. */
async function measure(photo) {
  if (isMeasuring || photo.measured?.key === keyOf(photo)) return;
  isMeasuring = true;
  const look = drawing();
  let key = keyOf(photo);
  const measured = { image: null, table: null, error: "" };
  try {
    await hold(photo, async (held) => {
      measured.table = await (await resultFile(held, "table.json", look)).json();
      measured.image = await loadImage(await (await resultFile(held, "measures.png", look)).blob());
      measured.image.alt = "The centrelines, branch points and end points, drawn over the photograph";
      key = key.replace(photo.result.token, held.result.token);
    });
  } catch (error) {
    measured.error = error.message;
  }
  photo.measured = { key, ...measured };
  isMeasuring = false;
  render(); // which measures again, if the view has changed in the meantime
}

/** Stop the work on a photograph; an earlier result of it is shown again. */
function cancel(photo) {
  photo.abort?.abort();
  if (photo.result) {
    const { model, bits } = photo.result;
    Object.assign(photo, { status: "done", model, bits });
    if (!photo.pixels) restore(photo);
  } else {
    photo.status = "cancelled";
  }
  render();
}

function again(photo, chosen = {}) {
  photo.abort?.abort();
  Object.assign(photo, chosen, { status: "waiting" });
  render();
  work();
}

function remove(photo) {
  photo.abort?.abort();
  forget([photo]);
  const place = state.photos.indexOf(photo);
  state.photos.splice(place, 1);
  photo.status = "removed";
  select(state.photos[Math.min(place, state.photos.length - 1)] ?? null);
}

/** Choose a model or bits: for the selected photograph, and those that are added later. */
function choose(chosen) {
  Object.assign(state.chosen, chosen);
  if (state.selected) again(state.selected, chosen);
  render();
}

async function addExample(kind) {
  try {
    const whole = await (await ask("example.jpg")).blob();
    const content = kind === "whole" ? whole : await alter(whole, kind);
    const name = kind === "whole" ? "example.jpg" : `example-${kind}.jpg`;
    add([new File([content], name, { type: "image/jpeg", lastModified: 0 })]);
  } catch (error) {
    state.notice = error.message;
    render();
  }
}

/** The example as a small photograph; or as large as before, but so blurred that it is warned of. */
async function alter(whole, kind) {
  const bitmap = await createImageBitmap(whole);
  const draw = (source, side) => {
    const canvas = new OffscreenCanvas(side, side);
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(source, 0, 0, side, side);
    return canvas;
  };
  const small = draw(bitmap, kind === "small" ? 300 : 70);
  const canvas = kind === "small" ? small : draw(small, bitmap.width);
  return canvas.convertToBlob({ type: "image/jpeg", quality: 0.95 });
}

// ---- Downloads ----

/** What the view says of pictures, as the server takes it. */
function drawing() {
  const { threshold, opacity, style, color, colorBy, mm } = state.view;
  return { threshold, opacity, style, color: color.slice(1), color_by: colorBy, mm_per_pixel: mm };
}

async function downloadOne(photo, file) {
  photo.error = "";
  try {
    await hold(photo, async (held) => {
      const answer = await resultFile(held, file, drawing());
      save(await answer.blob(), `${held.stem}_${file}`);
    });
  } catch (error) {
    photo.error = error.message;
  }
  render();
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/** Download masks, overlays, measures and the manifest of all photographs that have a result. */
async function downloadAll() {
  const photos = state.photos.filter((photo) => photo.result || photo.status === "failed");
  const abort = new AbortController();
  const look = drawing(); // one for all, even if a slider is moved in the meantime
  state.zip = { done: 0, total: photos.length, abort };
  render();
  try {
    let part = newPart();
    for (const photo of photos) {
      await hold(photo, (held) => collect(held, part, look, abort.signal));
      state.zip.done += 1;
      render();
      if (part.size > ZIP_BYTES) {
        savePart(part);
        part = newPart(part.number + 1);
      }
    }
    if (part.manifest.length) savePart(part);
  } catch (error) {
    if (!abort.signal.aborted) state.notice = `The zip was not made: ${error.message}`;
  }
  state.zip = null;
  render();
}

function newPart(number = 1) {
  return { number, files: [], manifest: [], measures: [], size: 0 };
}

async function collect(photo, part, look, signal) {
  const names = { mask: `${photo.stem}_mask.png`, overlay: `${photo.stem}_overlay.png` };
  const rowOf = (row) => ({ input: photo.name, ...names, ...row, ...names, input: photo.name });
  if (!photo.result) {
    part.manifest.push(rowOf({ error: photo.error }));
    return;
  }
  const get = (file) => resultFile(photo, file, look, signal);
  part.manifest.push(rowOf(await (await get("row.json")).json()));
  if (!state.settings.no_measures) part.measures.push(rowOf(await measuresOf(get)));
  for (const kind of ["mask", "overlay"]) {
    const bytes = new Uint8Array(await (await get(`${kind}.png`)).arrayBuffer());
    part.files.push({ name: names[kind], bytes });
    part.size += bytes.length;
  }
}

/** The measures, or why there are none, such as no field of view; that is the row's error. */
async function measuresOf(get) {
  try {
    return await (await get("measures.json")).json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    return { error: error.message };
  }
}

function savePart({ number, files, manifest, measures }) {
  const encode = (text) => new TextEncoder().encode(text);
  const tables = [{ name: "manifest.jsonl", bytes: encode(toJsonLines(manifest)) }];
  if (measures.length) tables.push({ name: "measures.csv", bytes: encode(toCsv(measures)) });
  save(makeZip([...files, ...tables]), number === 1 ? "vesselseg.zip" : `vesselseg-${number}.zip`);
}

// ---- What is shown ----

function render() {
  const photo = state.selected;
  by("notice").textContent = state.notice;
  by("notice").hidden = !state.notice;
  by("drop").hidden = photo !== null;
  document.querySelector("figure").hidden = by("list").hidden = photo === null;
  if (photo) {
    renderCaption(photo);
    renderPicture(photo);
  }
  renderList();
  renderSettings(photo);
  renderDownloads(photo);
}

function renderCaption(photo) {
  const { status, result, error } = photo;
  const isDone = status === "done";
  by("name").textContent = photo.name;
  by("facts").textContent = factsOf(photo);
  by("error").textContent = error;
  by("error").hidden = !error;
  const warning = isDone ? result.provenance.warning : "";
  by("warnings").replaceChildren(...(warning ? [warningOf(photo, warning)] : []));
  by("warnings").hidden = !warning;
  by("cancel").hidden = status !== "working" && status !== "waiting";
  by("again").hidden = status !== "failed" && status !== "cancelled";
}

/** A warning, with what can be done about it here. */
function warningOf(photo, text) {
  const entry = element("li", text);
  const bits = /If they use (\d+) bits/.exec(text)?.[1];
  if (bits) {
    const button = element("button", `Read ${bits} bits`);
    button.addEventListener("click", () => again(photo, { bits }));
    entry.append(" ", button);
  }
  return entry;
}

function factsOf(photo) {
  if (photo.status === "done") {
    const { width, height, seconds, label, provenance } = photo.result;
    const model = provenance.unverified ? `${label} (unverified weights)` : label;
    return [`${width} × ${height} pixels`, `${seconds.toFixed(1)} s`, model, shareOf(photo)].join(" · ");
  }
  const seconds = Math.floor((Date.now() - photo.started) / 1000);
  return {
    waiting: "Waiting for its turn",
    working: `Segmenting … ${seconds} s · ${labelOf(photo.model)}`,
    failed: "Not segmented",
    cancelled: "Cancelled",
  }[photo.status];
}

function labelOf(model) {
  const offered = state.settings.models;
  return (offered.find(({ name }) => name === model) ?? offered[0])?.label ?? "";
}

function shareOf({ pixels }) {
  if (!pixels) return "loading the picture …";
  const share = draw(pixels);
  return share === null ? "no field of view" : `${(100 * share).toFixed(1)} % of the field of view is vessel`;
}

const drawn = { pixels: null, key: "", share: null, fov: null };

/** Draw a result, unless it is what the canvas has; the share of the field of view that is vessel. */
function draw(pixels) {
  const { show, style, color, threshold, fov } = state.view;
  const key = JSON.stringify([show, style, color, threshold]);
  if (drawn.pixels !== pixels || drawn.key !== key) {
    Object.assign(drawn, { pixels, key, share: drawVessels(by("vessels"), pixels, state.view) });
  }
  if (fov && drawn.fov !== pixels) {
    drawFov(by("fov"), pixels);
    drawn.fov = pixels;
  }
  return drawn.share;
}

function renderPicture(photo) {
  const { view, zoom } = state;
  const isDone = photo.status === "done" && photo.pixels !== null;
  const isComing = ["waiting", "working", "done"].includes(photo.status);
  const isMeasures = isDone && view.show === "measures";
  const measured = isMeasures ? renderMeasures(photo) : null;
  by("measures").hidden = !measured?.table;
  by("measuring").hidden = !isMeasures || Boolean(measured && !measured.error);
  const image = measured?.image ?? (isDone ? photo.pixels.image : isComing && photo.preview);
  if (isDone) draw(photo.pixels);
  fill(by("photograph"), image ? [image] : []);
  by("frame").hidden = !image;
  by("zoom").hidden = !isDone;
  by("line").hidden = by("vessels").hidden = !isDone || isMeasures;
  by("fov").hidden = !isDone || isMeasures || !view.fov;
  if (!image) return;
  by("frame").style.setProperty("--ratio", image.naturalWidth / image.naturalHeight);
  by("frame").classList.toggle("busy", !isDone);
  by("frame").classList.toggle("zoomed", zoom.scale > 1);
  by("layer").style.transform = `translate(${100 * zoom.x}%, ${100 * zoom.y}%) scale(${zoom.scale})`;
  by("scale").value = `${zoom.scale.toFixed(1)} ×`;
  const hidden = (view.divider / 100 - zoom.x) / zoom.scale; // of the picture, left of the line
  by("vessels").style.clipPath = `inset(0 0 0 ${100 * Math.min(Math.max(hidden, 0), 1)}%)`;
  by("vessels").style.opacity = view.show === "overlay" ? view.opacity : 1;
  by("line").style.left = `${view.divider}%`;
}

/** The measures of a photograph that are shown; null while they are computed. */
function renderMeasures(photo) {
  const { no_measures: missing } = state.settings;
  const measured = missing ? { error: `Measures need an extra. ${missing}` } : photo.measured;
  const isThere = missing || measured?.key === keyOf(photo);
  if (!isThere) measure(photo);
  by("measuring").textContent = isThere ? measured.error : "Measuring …";
  if (!isThere) return null;
  const rows = (measured.table ?? []).map(({ name, value, unit, definition }) => {
    const row = document.createElement("tr");
    const head = element("th", name);
    head.scope = "row";
    row.append(head, ...[value ?? "none", unit, definition].map((text) => element("td", text)));
    return row;
  });
  by("measures").tBodies[0].replaceChildren(...rows);
  return measured;
}

function renderList() {
  const words = { waiting: "waiting", working: "segmenting", failed: "failed", cancelled: "cancelled", done: "" };
  for (const photo of state.photos) {
    photo.entry ??= newEntry(photo);
    const [button] = photo.entry.children;
    button.children[1].textContent = words[photo.status];
    button.classList.toggle("warned", photo.status === "done" && photo.result.provenance.warning !== "");
    button.setAttribute("aria-current", String(photo === state.selected));
  }
  fill(by("files"), state.photos.map((photo) => photo.entry));
}

function newEntry(photo) {
  const button = element("button", "");
  button.type = "button";
  button.append(element("span", photo.name), element("span", ""));
  button.addEventListener("click", () => select(photo));
  const entry = document.createElement("li");
  entry.append(button);
  return entry;
}

function renderSettings(photo) {
  const { models } = state.settings;
  const { model, bits } = photo ?? state.chosen;
  const here = models.filter((each) => each.downloaded);
  const missing = models.filter((each) => !each.downloaded);
  if (by("model").dataset.models !== JSON.stringify(models)) {
    by("model").dataset.models = JSON.stringify(models);
    by("model").replaceChildren(...here.map(({ name, label }) => new Option(label, name)));
    by("missing").querySelector("summary").textContent = `${missing.length} more, not downloaded`;
    const terms = missing.flatMap(({ name, label }) => [
      element("dt", label), element("dd", `vesselseg download ${name}`),
    ]); // prettier-ignore
    by("missing").querySelector("dl").replaceChildren(...terms);
  }
  by("missing").hidden = !missing.length;
  by("model").value = model || here[0]?.name;
  by("bits").value = bits;
  const differ = state.photos.some((each) => each.model !== model || each.bits !== bits);
  by("for-all").hidden = !photo || !differ;
  by("threshold-value").value = Number(state.view.threshold).toFixed(2);
  by("opacity-value").value = Number(state.view.opacity).toFixed(2);
  by("divider-value").value = `${state.view.divider} %`;
  const { show } = state.view;
  for (const id of ["style", "color", "opacity"]) by(id).disabled = show !== "overlay";
  for (const id of ["show-fov", "divider"]) by(id).disabled = show === "measures";
  for (const id of ["color-by", "mm-per-pixel"]) by(id).parentNode.hidden = show !== "measures";
}

function renderDownloads(photo) {
  const isDone = photo?.status === "done";
  by("downloads").hidden = by("about").hidden = !photo;
  for (const button of by("one").children) button.disabled = !isDone;
  document.querySelector("[data-file='measures.png']").disabled = !isDone || state.settings.no_measures;
  by("one").lastElementChild.hidden = !isDone || !photo.result.is_dicom;
  const { zip, settings } = state;
  const count = state.photos.filter((each) => each.result).length;
  const text = zip ? `Collecting ${zip.done + 1} of ${zip.total} …` : `Everything as a zip (${count})`;
  by("zip").textContent = text;
  by("zip").disabled = zip !== null || !count;
  by("cancel-zip").hidden = zip === null;
  by("zip-note").textContent = settings.no_measures
    ? `Masks, overlays and manifest.jsonl. Measures need an extra. ${settings.no_measures}`
    : "Masks, overlays, measures.csv and manifest.jsonl";
  by("about").hidden = !isDone;
  const facts = Object.entries(isDone ? photo.result.provenance : {}).flatMap(([name, value]) => {
    if (name === "threshold") return []; // the slider shows it
    const shown = Array.isArray(value) ? value.join(" × ") : String(value ?? "none");
    return [element("dt", name.replaceAll("_", " ")), element("dd", shown)];
  });
  by("provenance").replaceChildren(...facts);
}

function element(tag, text) {
  const node = document.createElement(tag);
  node.textContent = text;
  return node;
}

/** Give a node these children, leaving it alone if it has them, so that the focus stays. */
function fill(node, children) {
  const old = [...node.childNodes];
  const isSame = old.length === children.length && old.every((each, i) => each === children[i]);
  if (!isSame) node.replaceChildren(...children);
}

// ---- Events ----

/** Show what the controls say, once for each change: a browser may tell of it as two events. */
function readView() {
  const ids = ["show", "style", "color", "threshold", "opacity", "divider"];
  const view = Object.fromEntries(ids.map((id) => [id, by(id).value]));
  const [fov, colorBy, mm] = [by("show-fov").checked, by("color-by").value, by("mm-per-pixel").value];
  Object.assign(view, { fov, colorBy, mm });
  if (JSON.stringify(view) === JSON.stringify(state.view)) return;
  state.view = view;
  render();
}

async function loadSettings() {
  try {
    state.settings = await (await ask("settings")).json();
    state.chosen.model ||= state.settings.models[0].name;
  } catch (error) {
    state.notice = error.message;
  }
  render();
}

function zoomTo(change) {
  if (state.selected?.status !== "done") return;
  state.zoom = change(state.zoom);
  render();
}

function divide(share) {
  by("divider").value = Math.round(100 * share);
  readView();
}

function listenToAll() {
  for (const name of ["input", "change"]) by("controls").addEventListener(name, readView);
  by("model").addEventListener("change", () => choose({ model: by("model").value }));
  by("bits").addEventListener("change", () => choose({ bits: by("bits").value }));
  by("for-all").addEventListener("click", () => {
    const { model, bits } = state.selected;
    for (const photo of state.photos) {
      if (photo.model !== model || photo.bits !== bits) again(photo, { model, bits });
    }
  });
  by("file").addEventListener("change", () => {
    add([...by("file").files]);
    by("file").value = ""; // so that the same file can be chosen again
  });
  by("examples").addEventListener("click", (event) => {
    const kind = event.target.closest("button")?.dataset.example;
    if (kind) addExample(kind);
  });
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault(); // or the browser would leave the page and open the file
      document.body.classList.toggle("dragging", name === "dragover");
      if (name === "drop") add([...event.dataTransfer.files]);
    });
  }
  by("cancel").addEventListener("click", () => cancel(state.selected));
  by("again").addEventListener("click", () => again(state.selected));
  by("remove").addEventListener("click", () => remove(state.selected));
  by("one").addEventListener("click", (event) => {
    if (event.target.dataset.file) downloadOne(state.selected, event.target.dataset.file);
  });
  by("zip").addEventListener("click", downloadAll);
  by("cancel-zip").addEventListener("click", () => state.zip?.abort.abort());
  by("full").addEventListener("click", () => zoomTo((zoom) => toFull(by("frame"), zoom)));
  by("zoom").addEventListener("click", (event) => {
    const factor = Number(event.target.dataset.zoom ?? NaN);
    if (!Number.isNaN(factor)) zoomTo((zoom) => (factor ? zoomAt(zoom, factor, 0.5, 0.5) : FITTED));
  });
  listen(by("frame"), by("line"), zoomTo, divide);
  setInterval(() => state.selected?.status === "working" && renderCaption(state.selected), 1000);
  addEventListener("focus", loadSettings); // a model may have been downloaded in the meantime
  addEventListener("pagehide", () => forget(state.photos));
}

listenToAll();
readView();
loadSettings();
