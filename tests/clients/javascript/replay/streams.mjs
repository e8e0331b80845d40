// Reads an HTTP answer as lines, or as the events of a `text/event-stream`.
//
// Neighbours: `transcript` reads with it.
// Invariant: a line that is none of the format is an error.

async function* lines(body) {
  let rest = "";
  for await (const part of body.pipeThrough(new TextDecoderStream())) {
    const whole = (rest + part).split("\n");
    rest = whole.pop();
    for (const line of whole) yield line.replace(/\r$/, "");
  }
  if (rest) yield rest;
}

export async function* jsonLines(body) {
  for await (const line of lines(body)) if (line) yield JSON.parse(line);
}

/** Each event as `{id?, data}`; comments are left out. */
export async function* events(body) {
  let event = {};
  for await (const line of lines(body)) {
    if (line === "") {
      if ("data" in event) yield event;
      event = {};
    } else if (line.startsWith("id:")) event.id = Number(line.slice(3));
    else if (line.startsWith("data:")) event.data = JSON.parse(line.slice(5));
    else if (!line.startsWith(":")) throw new Error(`a line of no event stream: ${line}`);
  }
}
