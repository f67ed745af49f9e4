"use strict";

// The photograph is segmented once. Its probabilities, float32, come to the browser, where the
// threshold is applied as the library does it; only downloads are made by the library itself.

const by = (id) => document.getElementById(id);
const ON = { overlay: [0, 220, 255, 255], mask: [255, 255, 255, 255] }; // R, G, B, alpha
const OFF = { overlay: [0, 0, 0, 0], mask: [0, 0, 0, 255] };
let settings = { models: [], max_upload: Infinity };
let photograph = null; // the File
let result = null; // {token, width, height, probability}
let turn = 0; // answers to an earlier question are dropped

function say(text) {
  by("status").textContent = text;
}

function fail(text) {
  say("");
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

async function segment() {
  const mine = ++turn;
  fail("");
  close();
  if (!photograph) return;
  if (photograph.size > settings.max_upload) {
    const [size, most] = [photograph.size, settings.max_upload].map((x) => x / 1e6);
    fail(`${photograph.name}: has ${size.toFixed(1)} MB; at most ${most} MB are taken (--max-upload).`);
    return;
  }
  say(`Segmenting ${photograph.name} …`);
  try {
    const model = encodeURIComponent(by("model").value);
    const answer = await ask(`segment?model=${model}`, { method: "POST", body: photograph });
    const found = await answer.json();
    if (mine !== turn) return forget(found.token);
    result = found;
    const floats = await (await ask(`results/${found.token}/probability.f32`)).arrayBuffer();
    by("photograph").src = `results/${found.token}/photograph.png`;
    await by("photograph").decode();
    if (mine !== turn) return;
    found.probability = new Float32Array(floats);
    by("vessels").width = found.width;
    by("vessels").height = found.height;
    draw();
    showProvenance(found);
    enable(true);
    say(`${photograph.name}: ${found.width} × ${found.height} pixels, ${found.seconds.toFixed(1)} s`);
  } catch (error) {
    if (mine === turn) fail(`${photograph.name}: ${error.message}`);
  }
}

function enable(there) {
  by("pictures").hidden = by("about").hidden = !there;
  for (const button of by("downloads").children) button.disabled = !there;
}

function close() {
  if (result) forget(result.token);
  result = null;
  enable(false);
}

function forget(token) {
  fetch(`results/${token}`, { method: "DELETE", keepalive: true }).catch(() => {});
}

function draw() {
  by("threshold-value").value = Number(by("threshold").value).toFixed(2);
  place();
  if (!result?.probability) return;
  const view = by("view").value;
  const pixels = new ImageData(result.width, result.height);
  const words = new Uint32Array(pixels.data.buffer);
  const [on, off] = [ON, OFF].map((color) => new Uint32Array(Uint8Array.from(color[view]).buffer)[0]);
  const threshold = Math.fround(by("threshold").value); // float32, as the probabilities are
  const probability = result.probability;
  for (let i = 0; i < words.length; i++) words[i] = probability[i] > threshold ? on : off;
  by("vessels").getContext("2d").putImageData(pixels, 0, 0);
}

function place() {
  by("opacity-value").value = Number(by("opacity").value).toFixed(2);
  by("divider-value").value = `${by("divider").value} %`;
  const left = by("divider").value;
  by("vessels").style.opacity = by("view").value === "overlay" ? by("opacity").value : 1;
  by("vessels").style.clipPath = `inset(0 0 0 ${left}%)`;
  by("line").style.left = `${left}%`;
  by("line").hidden = left === "0" || left === "100";
}

function showProvenance(found) {
  by("provenance").replaceChildren();
  for (const [name, value] of Object.entries(found.provenance)) {
    if (name === "threshold") continue; // the slider says it
    const [term, words] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = name.replaceAll("_", " ");
    words.textContent = Array.isArray(value) ? value.join(" × ") : String(value ?? "none");
    by("provenance").append(term, words);
  }
}

async function download(file) {
  fail("");
  try {
    const asked = `threshold=${by("threshold").value}&opacity=${by("opacity").value}`;
    const answer = await ask(`results/${result.token}/${file}?${asked}`);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await answer.blob());
    link.download = `${photograph.name.replace(/\.[^.]*$/, "")}_${file}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  } catch (error) {
    fail(error.message);
  }
}

function take(files) {
  if (!files.length) return;
  photograph = files[0];
  segment();
}

async function start() {
  for (const id of ["threshold", "view"]) by(id).addEventListener("input", draw);
  for (const id of ["opacity", "divider"]) by(id).addEventListener("input", place);
  by("model").addEventListener("change", segment);
  by("full").addEventListener("change", () => by("pictures").classList.toggle("full", by("full").checked));
  by("file").addEventListener("change", () => {
    take(by("file").files);
    by("file").value = ""; // so that the same file can be chosen again
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
  addEventListener("pagehide", close);
  draw();
  try {
    settings = await (await ask("settings")).json();
    by("model").replaceChildren(...settings.models.map((name) => new Option(name, name)));
  } catch (error) {
    fail(error.message);
  }
}

start();
