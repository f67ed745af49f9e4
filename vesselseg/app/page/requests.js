// What the page asks of its server. A photograph here is an object with file and result.

const UNREACHABLE = "vesselseg does not answer. Is it still running in its terminal?";

/** Ask the server; an Error says in words what went wrong. */
export async function ask(address, options) {
  const answer = await reach(address, options);
  if (answer.ok) return answer;
  throw new Error(await explain(answer));
}

async function reach(address, options) {
  try {
    return await fetch(address, options);
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error(UNREACHABLE);
  }
}

async function explain(answer) {
  const isOurs = answer.headers.get("Content-Type")?.startsWith("text/plain");
  if (isOurs) return answer.text();
  // A page of a proxy in between: its status is all that one can use.
  const reason = { 413: "the file is too large for it", 504: "it did not wait long enough" }[answer.status];
  return `A proxy before vesselseg answered ${answer.status}${reason ? `: ${reason}` : ""}.`;
}

/** Segment a file, as soon as the server has room for it; the result has the token of its files. */
export async function segment(file, model, bits, signal) {
  let body;
  try {
    body = await file.arrayBuffer();
  } catch {
    throw new Error("The file cannot be read. Was it moved or changed, or is it a folder? Choose the photographs again.");
  }
  const query = new URLSearchParams({ model, bits });
  for (;;) {
    const answer = await reach(`segment?${query}`, { method: "POST", body, signal });
    if (answer.ok) return { ...(await answer.json()), bits };
    const pause = Number(answer.headers.get("Retry-After"));
    if (answer.status !== 503 || !pause) throw new Error(await explain(answer));
    await new Promise((resolve) => setTimeout(resolve, 1000 * pause));
    signal?.throwIfAborted();
  }
}

/** A file of the result of a photograph, which is segmented again if the server released it. */
export async function resultFile(photo, file, query = {}, signal = undefined) {
  for (let attempt = 0; ; attempt++) {
    const { token, model, bits } = photo.result;
    const answer = await reach(`results/${token}/${file}?${new URLSearchParams(query)}`, { signal });
    if (answer.ok) return answer;
    if (answer.status !== 404 || attempt === 3) throw new Error(await explain(answer));
    photo.result = await segment(photo.file, model, bits, signal);
  }
}

/** What is needed to draw a result: the photograph, its probabilities, and its field of view. */
export async function loadPixels(photo, signal) {
  const get = (name) => resultFile(photo, name, {}, signal);
  const probability = new Float32Array(await (await get("probability.f32")).arrayBuffer());
  const image = await loadImage(await (await get("photograph.png")).blob());
  image.alt = "The photograph";
  const inside = await readMask(await (await get("fov.png")).blob());
  const { width, height } = photo.result;
  return { width, height, image, probability, inside };
}

/** A picture that is ready to be shown. */
export async function loadImage(blob) {
  const image = new Image();
  image.src = URL.createObjectURL(blob);
  await image.decode();
  URL.revokeObjectURL(image.src);
  return image;
}

async function readMask(blob) {
  const bitmap = await createImageBitmap(blob);
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, bitmap.width, bitmap.height);
  return Uint8Array.from({ length: data.length / 4 }, (_, i) => data[4 * i] >> 7);
}

/** Let the server release results; the browser sends this even while the page is left. */
export function forget(photos) {
  const tokens = photos.flatMap((photo) => (photo.result ? [photo.result.token] : []));
  if (tokens.length) navigator.sendBeacon("forget", tokens.join("\n"));
}
