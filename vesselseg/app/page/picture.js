// How a result is drawn, and how it is zoomed and compared.

const VESSEL_OF_MASK = [255, 255, 255]; // R, G, B
const FOV_COLOR = [255, 214, 0];
const FOV_SIDE = 1000; // pixels of the canvas with the border of the field of view

/** Draw the vessels; the share of the field of view that is vessel, or null if there is none. */
export function drawVessels(canvas, { width, height, probability, inside }, view) {
  const limit = Math.fround(view.threshold); // float32, like the probabilities
  const mask = Uint8Array.from(probability, (value) => (value > limit ? 1 : 0));
  const words = new Uint32Array(width * height);
  if (view.show === "probability") {
    const greys = Array.from({ length: 256 }, (_, i) => word(i, i, i));
    words.forEach((_, i) => (words[i] = greys[Math.round(probability[i] * 255)]));
  } else {
    const isOverlay = view.show === "overlay";
    const drawn = isOverlay && view.style === "outline" ? border(mask, width, height) : mask;
    const on = isOverlay ? word(...colorOf(view)) : word(...VESSEL_OF_MASK);
    const off = isOverlay ? 0 : word(0, 0, 0);
    drawn.forEach((isOn, i) => (words[i] = isOn ? on : off));
  }
  canvas.width = width;
  canvas.height = height;
  const pixels = new ImageData(new Uint8ClampedArray(words.buffer), width, height);
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  let vessels = 0;
  let total = 0;
  for (let i = 0; i < mask.length; i++) {
    total += inside[i];
    vessels += inside[i] & mask[i];
  }
  return total ? vessels / total : null;
}

/** Draw the border of the field of view, as thick at every size of the photograph. */
export function drawFov(canvas, { width, height, inside }) {
  const step = Math.max(width, height) / FOV_SIDE;
  canvas.width = Math.ceil(width / step);
  canvas.height = Math.ceil(height / step);
  const at = (x, y) => {
    const isOutside = x < 0 || y < 0 || x >= canvas.width || y >= canvas.height;
    return isOutside ? 0 : inside[Math.floor(y * step) * width + Math.floor(x * step)];
  };
  const words = new Uint32Array(canvas.width * canvas.height);
  words.forEach((_, i) => {
    const x = i % canvas.width;
    const y = Math.floor(i / canvas.width);
    const isBorder = at(x, y) && !(at(x - 3, y) && at(x + 3, y) && at(x, y - 3) && at(x, y + 3));
    words[i] = isBorder ? word(...FOV_COLOR) : 0;
  });
  const pixels = new ImageData(new Uint8ClampedArray(words.buffer), canvas.width, canvas.height);
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

/** Pixels of a mask with one of four neighbours outside it; the frame counts as inside. */
function border(mask, width, height) {
  return mask.map((isOn, i) => {
    const x = i % width;
    const isInner =
      (x === 0 || mask[i - 1]) &&
      (x === width - 1 || mask[i + 1]) &&
      (i < width || mask[i - width]) &&
      (i >= width * (height - 1) || mask[i + width]);
    return isOn && !isInner ? 1 : 0;
  });
}

/** R, G and B of the chosen colour, such as "#00dcff". */
function colorOf({ color }) {
  return [1, 3, 5].map((start) => parseInt(color.slice(start, start + 2), 16));
}

/** An opaque pixel as it lies in memory. */
function word(red, green, blue) {
  return new Uint32Array(Uint8Array.of(red, green, blue, 255).buffer)[0];
}

// A zoom is {scale, x, y}: how much larger than fitted, and where its left upper corner is, in
// shares of the frame.

export const FITTED = Object.freeze({ scale: 1, x: 0, y: 0 });

/** The zoom with another scale, the point (x, y) of the frame staying where it is. */
export function zoomAt(zoom, factor, x, y) {
  const scale = Math.min(Math.max(zoom.scale * factor, 1), 20);
  const change = scale / zoom.scale;
  return move({ scale, x: x - (x - zoom.x) * change, y: y - (y - zoom.y) * change }, 0, 0);
}

/** The zoom at which a pixel of the picture is one of the screen, or fitted if that is larger. */
export function toFull(frame, zoom) {
  const scale = frame.querySelector("img").naturalWidth / (frame.clientWidth * devicePixelRatio);
  return zoomAt(zoom, scale / zoom.scale, 0.5, 0.5);
}

/** The zoom moved by shares of the frame, so that the picture still fills it. */
export function move({ scale, x, y }, right, down) {
  const within = (value) => Math.min(Math.max(value, 1 - scale), 0);
  return { scale, x: within(x + right), y: within(y + down) };
}

/**
 * Call change(zoom => zoom) for wheel, mouse, touch and keys on the frame, and divide(share) where
 * its line is dragged.
 */
export function listen(frame, line, change, divide) {
  const pointers = new Map(); // those that are down, and where they were last
  const placeOf = ({ clientX, clientY }) => {
    const box = frame.getBoundingClientRect();
    return { x: (clientX - box.left) / box.width, y: (clientY - box.top) / box.height };
  };
  frame.addEventListener("wheel", (event) => {
    event.preventDefault();
    const { x, y } = placeOf(event);
    change((zoom) => zoomAt(zoom, Math.exp(-event.deltaY / 400), x, y));
  });
  frame.addEventListener("pointerdown", (event) => {
    pointers.set(event.pointerId, { ...placeOf(event), isOnLine: line.contains(event.target) });
    frame.setPointerCapture(event.pointerId);
  });
  frame.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const now = { ...before, ...placeOf(event) };
    pointers.set(event.pointerId, now);
    const [right, down] = [now.x - before.x, now.y - before.y];
    const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
    if (other) {
      const factor = distance(now, other) / Math.max(distance(before, other), 0.01);
      const [x, y] = [(now.x + other.x) / 2, (now.y + other.y) / 2]; // moves half as far as a finger
      change((zoom) => move(zoomAt(zoom, factor, x, y), right / 2, down / 2));
    } else if (before.isOnLine) {
      divide(Math.min(Math.max(now.x, 0), 1));
    } else {
      change((zoom) => move(zoom, right, down));
    }
  });
  for (const name of ["pointerup", "pointercancel"]) {
    frame.addEventListener(name, (event) => pointers.delete(event.pointerId));
  }
  for (const name of ["touchstart", "touchmove"]) {
    // One finger scrolls the page unless the picture is zoomed; two are a pinch of the picture.
    const keep = (event) => event.touches.length > 1 && event.preventDefault();
    frame.addEventListener(name, keep, { passive: false });
  }
  const moves = { ArrowLeft: [0.1, 0], ArrowRight: [-0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] };
  const factors = { "+": 1.25, "=": 1.25, "-": 0.8 };
  frame.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in moves) change((zoom) => move(zoom, ...moves[event.key]));
    else if (event.key in factors) change((zoom) => zoomAt(zoom, factors[event.key], 0.5, 0.5));
    else if (event.key === "0") change(() => FITTED);
    else if (event.key === "1") change((zoom) => toFull(frame, zoom));
    else return;
    event.preventDefault();
  });
}

function distance(a, b) {
  return Math.hypot(a.x - b.x, a.y - b.y);
}
