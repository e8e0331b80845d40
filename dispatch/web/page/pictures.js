/**
 * Pictures made small enough to travel in a frame.
 *
 * Neighbours: `composer` asks for it when one is pasted, dropped or picked.
 * Invariant: what comes back is a data URL of at most the length that was asked for, or nothing.
 */

/** Models look at no more than this. */
const SIDE_PIXELS_MAX = 1_568;
const QUALITIES = [0.86, 0.7, 0.5];

/**
 * @param {File} file
 * @param {number} lengthMax of the data URL
 * @returns {Promise<{url: string, mimeType: string} | null>}
 */
export async function fitted(file, lengthMax) {
  if (!file.type.startsWith("image/")) return null;
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return null;
  }
  const canvas = document.createElement("canvas");
  for (let side = SIDE_PIXELS_MAX; side >= 256; side /= 1.5) {
    const scale = Math.min(1, side / Math.max(bitmap.width, bitmap.height));
    canvas.width = Math.max(1, Math.round(bitmap.width * scale));
    canvas.height = Math.max(1, Math.round(bitmap.height * scale));
    canvas.getContext("2d")?.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    for (const quality of QUALITIES) {
      const url = canvas.toDataURL("image/webp", quality);
      const mimeType = url.slice("data:".length, url.indexOf(";"));
      if (url.length <= lengthMax) return { url, mimeType };
    }
  }
  return null;
}
