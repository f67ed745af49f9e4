"use strict";

// Every photograph is segmented once. The browser gets its probabilities, float32, and applies the
// threshold as the library does; only downloads are computed by the library itself.

const by = (id) => document.getElementById(id);
const COLORS = { overlay: [0, 220, 255], mask: [255, 255, 255] }; // R, G, B of vessels
let settings = { models: [], max_upload: Infinity };
let items = []; // {file, state, result}; a result has token, width, height, probability, inside, ...
let current = null; // the item that is shown
let queue = Promise.resolve(); // photographs are segmented one after another
let zoom = { scale: 1, x: 0, y: 0 };

function say(text) {
  by("status").textContent = text;
}

function fail(text) {
  by("error").textContent = text;
  by("error").hidden = !text;
}

async function ask(address, options) {
  let answer;
  try {
    answer = await fetch(address, options);
  } catch {
    throw new Error("vesselseg does not answer. Is it still running in its terminal?");
  }
  if (!answer.ok) throw new Error(await answer.text());
  return answer;
}

function take(files) {
  if (!files.length) return;
  fail("");
  const added = [...files].map((file) => ({ file, state: "waiting", result: null }));
  items.push(...added);
  for (const item of added) queue = queue.then(() => segment(item));
}

async function segment(item) {
  if (!items.includes(item)) return;
  const { file } = item;
  item.state = "working";
  listFiles();
  try {
    if (file.size > settings.max_upload) {
      const [size, limit] = [file.size, settings.max_upload].map((bytes) => bytes / 1e6);
      throw new Error(`has ${size.toFixed(1)} MB; at most ${limit} MB are accepted (--max-upload).`);
    }
    if (!current || !current.result) preview(item);
    say(`Segmenting ${file.name} …`);
    const query = new URLSearchParams({ model: by("model").value, bits: by("bits").value });
    const answer = await ask(`segment?${query}`, { method: "POST", body: file });
    const result = await answer.json();
    const get = (name) => ask(`results/${result.token}/${name}`);
    result.probability = new Float32Array(await (await get("probability.f32")).arrayBuffer());
    result.photograph = URL.createObjectURL(await (await get("photograph.png")).blob());
    result.inside = await readMask(await (await get("fov.png")).blob());
    release(item);
    item.result = result;
    item.state = "done";
    await show(item);
    say(`${file.name}: ${result.width} × ${result.height} pixels, ${result.seconds.toFixed(1)} s`);
  } catch (error) {
    // The last result stays; a photograph that fails leaves the list.
    items = items.filter((other) => other !== item || item.result);
    if (item === current && !item.result) current = null;
    say("");
    fail(`${file.name}: ${error.message}`);
    if (current) await show(current);
    else by("pictures").hidden = true;
  }
  listFiles();
}

async function readMask(blob) {
  const bitmap = await createImageBitmap(blob);
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, bitmap.width, bitmap.height);
  return Uint8Array.from({ length: data.length / 4 }, (_, i) => data[4 * i] >> 7);
}

function preview(item) {
  // The photograph is visible while it is worked on, if the browser can decode it.
  current = item;
  fit();
  const image = by("photograph");
  image.onerror = () => (by("pictures").hidden = true);
  image.src = URL.createObjectURL(item.file);
  by("pictures").hidden = false;
  by("pictures").classList.add("busy");
  by("vessels").hidden = by("line").hidden = true;
}

async function show(item) {
  current = item;
  const { result } = item;
  by("photograph").onerror = null;
  by("photograph").src = result.photograph;
  await by("photograph").decode();
  if (current !== item) return;
  by("vessels").width = result.width;
  by("vessels").height = result.height;
  by("pictures").classList.remove("busy");
  by("vessels").hidden = by("pictures").hidden = by("zoom").hidden = by("about").hidden = false;
  for (const button of by("downloads").children) button.disabled = false;
  by("warnings").replaceChildren(...result.warnings.map((text) => element("li", text)));
  by("warnings").hidden = !result.warnings.length;
  showProvenance(result);
  draw();
  listFiles();
}

function element(tag, text) {
  const node = document.createElement(tag);
  node.textContent = text;
  return node;
}

function listFiles() {
  const marks = { waiting: "… ", working: "⏳ ", done: "" };
  const entries = items.map((item) => {
    const button = element("button", marks[item.state] + item.file.name);
    button.type = "button";
    button.disabled = !item.result;
    button.setAttribute("aria-current", String(item === current));
    button.addEventListener("click", () => show(item));
    const entry = document.createElement("li");
    entry.append(button);
    return entry;
  });
  by("files").replaceChildren(...entries);
  by("files").hidden = items.length < 2;
}

function draw() {
  by("threshold-value").value = Number(by("threshold").value).toFixed(2);
  place();
  if (!current?.result) return;
  const { width, height, probability, inside } = current.result;
  const kind = by("show").value;
  const pixels = new ImageData(width, height);
  const words = new Uint32Array(pixels.data.buffer);
  const word = (red, green, blue, alpha) => new Uint32Array(Uint8Array.of(red, green, blue, alpha).buffer)[0];
  const on = kind === "probability" ? 0 : word(...COLORS[kind], 255);
  const off = kind === "overlay" ? 0 : word(0, 0, 0, 255);
  const greys = Array.from({ length: 256 }, (_, i) => word(i, i, i, 255));
  const threshold = Math.fround(by("threshold").value); // float32, like the probabilities
  let vessels = 0;
  let total = 0;
  for (let i = 0; i < words.length; i++) {
    const isVessel = probability[i] > threshold;
    words[i] = kind === "probability" ? greys[Math.round(probability[i] * 255)] : isVessel ? on : off;
    total += inside[i];
    vessels += isVessel & inside[i];
  }
  by("vessels").getContext("2d").putImageData(pixels, 0, 0);
  by("share").value = total ? `${((100 * vessels) / total).toFixed(1)} % of the field of view is vessel` : "";
}

function place() {
  by("opacity-value").value = Number(by("opacity").value).toFixed(2);
  by("divider-value").value = `${by("divider").value} %`;
  const left = by("divider").value;
  by("vessels").style.opacity = by("show").value === "overlay" ? by("opacity").value : 1;
  by("vessels").style.clipPath = `inset(0 0 0 ${left}%)`;
  by("line").style.left = `${left}%`;
  by("line").hidden = !current?.result;
}

function showProvenance(result) {
  by("provenance").replaceChildren();
  for (const [name, value] of Object.entries(result.provenance)) {
    if (name === "threshold") continue; // the slider shows it
    const text = Array.isArray(value) ? value.join(" × ") : String(value ?? "none");
    by("provenance").append(element("dt", name.replaceAll("_", " ")), element("dd", text));
  }
}

async function download(file) {
  fail("");
  const item = current;
  try {
    const query = `threshold=${by("threshold").value}&opacity=${by("opacity").value}`;
    const answer = await ask(`results/${item.result.token}/${file}?${query}`);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await answer.blob());
    link.download = `${item.file.name.replace(/\.[^.]*$/, "")}_${file}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  } catch (error) {
    fail(error.message);
  }
}

function release({ result }) {
  if (!result) return;
  URL.revokeObjectURL(result.photograph);
  fetch(`results/${result.token}`, { method: "DELETE", keepalive: true }).catch(() => {});
}

function fit() {
  zoom = { scale: 1, x: 0, y: 0 };
  applyZoom();
}

function applyZoom() {
  by("pictures").style.transform = `translate(${zoom.x}px, ${zoom.y}px) scale(${zoom.scale})`;
  by("stage").classList.toggle("zoomed", zoom.scale > 1);
}

function zoomAt(factor, clientX, clientY) {
  const box = by("pictures").getBoundingClientRect();
  const scale = Math.min(Math.max(zoom.scale * factor, 1), 20);
  if (scale === 1) return fit();
  const change = scale / zoom.scale - 1;
  zoom = { scale, x: zoom.x - (clientX - box.left) * change, y: zoom.y - (clientY - box.top) * change };
  applyZoom();
}

function listenToPointers() {
  by("stage").addEventListener("wheel", (event) => {
    if (by("pictures").hidden) return;
    event.preventDefault();
    zoomAt(event.deltaY < 0 ? 1.25 : 0.8, event.clientX, event.clientY);
  });
  by("stage").addEventListener("pointermove", (event) => {
    if (event.buttons !== 1 || zoom.scale === 1 || by("line").hasPointerCapture(event.pointerId)) return;
    zoom.x += event.movementX;
    zoom.y += event.movementY;
    applyZoom();
  });
  by("line").addEventListener("pointerdown", (event) => by("line").setPointerCapture(event.pointerId));
  by("line").addEventListener("pointermove", (event) => {
    if (!by("line").hasPointerCapture(event.pointerId)) return;
    const box = by("pictures").getBoundingClientRect();
    const share = (event.clientX - box.left) / box.width;
    by("divider").value = Math.round(100 * Math.min(Math.max(share, 0), 1));
    place();
  });
  by("zoom").addEventListener("click", (event) => {
    const factor = Number(event.target.dataset.zoom ?? NaN);
    const box = by("stage").getBoundingClientRect();
    if (factor === 0) fit();
    else if (factor) zoomAt(factor, box.left + box.width / 2, box.top + box.height / 2);
  });
}

async function start() {
  for (const id of ["threshold", "show"]) by(id).addEventListener("input", draw);
  for (const id of ["opacity", "divider"]) by(id).addEventListener("input", place);
  for (const id of ["model", "bits"]) {
    by(id).addEventListener("change", () => {
      const item = current;
      if (item) queue = queue.then(() => segment(item));
    });
  }
  by("file").addEventListener("change", () => {
    take(by("file").files);
    by("file").value = ""; // so that the same file can be chosen again
  });
  by("example").addEventListener("click", async () => {
    const content = await (await ask("example.jpg")).blob();
    take([new File([content], "example.jpg", { type: "image/jpeg" })]);
  });
  by("downloads").addEventListener("click", (event) => {
    if (event.target.dataset.file) download(event.target.dataset.file);
  });
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault(); // or the browser would leave the page and open the file
      by("drop").classList.toggle("over", name === "dragover");
      if (name === "drop") take(event.dataTransfer.files);
    });
  }
  listenToPointers();
  addEventListener("pagehide", () => items.forEach(release));
  draw();
  try {
    settings = await (await ask("settings")).json();
    by("model").replaceChildren(...settings.models.map((name) => new Option(name, name)));
  } catch (error) {
    fail(error.message);
  }
}

start();
