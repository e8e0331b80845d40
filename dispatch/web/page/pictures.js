/**
 * Pictures made small enough to travel in a frame.
 *
 * Neighbours: `composer` asks for it when one is pasted, dropped or picked.
 * Invariant: what comes back is a data URL of at most the length that was asked for, or the reason
 * why there is none.
 */

/** Models look at no more than this. */
const SIDE_PIXELS_MAX = 1_568;
/** Below this nothing can be read on it. */
const SIDE_PIXELS_MIN = 256;
const SHRINK = 1 / 1.5;
const QUALITIES = [0.86, 0.7, 0.5];

/**
 * @param {File} file
 * @param {number} lengthMax of the data URL
 * @returns {Promise<{url: string, mimeType: string} | "unreadable" | "too large">}
 */
export async function fitted(file, lengthMax) {
  if (!file.type.startsWith("image/")) return "unreadable";
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return "unreadable";
  }
  try {
    return smaller(bitmap, lengthMax);
  } finally {
    // Pixels without this are kept until the browser finds time.
    bitmap.close();
  }
}

/** @param {ImageBitmap} bitmap @param {number} lengthMax */
function smaller(bitmap, lengthMax) {
  const canvas = document.createElement("canvas");
  const longest = Math.max(bitmap.width, bitmap.height);
  const side = Math.min(SIDE_PIXELS_MAX, longest);
  for (let scale = side / longest; scale === 1 || longest * scale >= SIDE_PIXELS_MIN; scale *= SHRINK) {
    canvas.width = Math.max(1, Math.round(bitmap.width * scale));
    canvas.height = Math.max(1, Math.round(bitmap.height * scale));
    canvas.getContext("2d")?.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    for (const quality of QUALITIES) {
      const url = canvas.toDataURL("image/webp", quality);
      const mimeType = url.slice("data:".length, url.indexOf(";"));
      if (url.length <= lengthMax) return { url, mimeType };
    }
  }
  return "too large";
}
