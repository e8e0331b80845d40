// How a client is typed by `protocol/dispatch.d.ts`: compiled by `tests/protocol/test_tools.py`,
// and never run.
import type {
  ChatStreamEvent,
  Chunk,
  ClientFrame,
  GroupStreamFrame,
  Part1ServerFrame,
  ServerFrame,
  ShownEvent,
} from "./dispatch.d.ts";

export function send(message: string): string {
  const frame: ClientFrame = { type: "chat.send", message, clientMessageId: "m-1" };
  return JSON.stringify(frame);
}

export function heard(text: string): string {
  const frame = JSON.parse(text) as ServerFrame;
  switch (frame.type) {
    case "hello":
      return frame.agents.map((agent) => agent.name).join();
    case "chat.accepted":
      return frame.turnId ?? frame.queueId ?? "";
    case "chat.delta":
      return frame.position + shown(frame.event);
    case "chat.snapshot":
      return (frame.turn?.chunks ?? []).map((line) => kept(line.chunk)).join("");
    case "chat.request":
      return (frame.options ?? []).map((option) => option.effect).join();
    case "group.event":
      return said(frame.event);
    case "chats.event":
      return String(told(frame));
    default:
      return frame.type;
  }
}

export function shown(event: ShownEvent): string {
  switch (event.type) {
    case "text-delta":
    case "reasoning-delta":
      return event.delta;
    case "tool-result":
      return event.isError ? "" : event.content;
    case "done":
      return `${event.reason} ${event.usage?.outputTokens ?? 0}`;
    default:
      return "";
  }
}

export function kept(chunk: Chunk): string {
  return chunk.type === "text" || chunk.type === "thinking" ? chunk.text : chunk.type;
}

export function said(frame: GroupStreamFrame): string {
  switch (frame.kind) {
    case "user":
    case "assistant_chunk":
      return frame.text;
    case "tool_use":
      return frame.phase === "result" ? frame.content : frame.toolCallId;
    case "done":
      return "scope" in frame ? String(frame.results.completed) : frame.outcome;
    default:
      return "";
  }
}

export function told(event: ChatStreamEvent): number {
  if (event.event === "chat_message") return event.data.seq;
  if (event.event === "connected") return event.data.cursor;
  return "id" in event ? (event.id ?? 0) : 0;
}

export function old(frame: Part1ServerFrame): boolean {
  return frame.type === "chat.delta" && frame.event.type === "turn-sealed";
}
