/**
 * What travels, under the names that the client uses for it.
 *
 * Source: `protocol/dispatch.d.ts`, generated from the daemon's own declarations, so that a field
 * the client reads and the daemon does not send is a type error here.
 * Types only: nothing of this file is there when the client runs.
 */

import type * as wire from "../../protocol/dispatch.js";

export type {
  AgentRequest as Request,
  AnswerBody as Response,
  ChatAcceptedFrame as Accepted,
  ChatForkedFrame as Forked,
  ChatListItem,
  ChatMessage,
  ChatSession,
  ChatSnapshotFrame as Snapshot,
  ChatStoppedFrame as Stopped,
  ChatSubscribedFrame as Subscribed,
  Chunk,
  ClientFrame,
  ConversationRow,
  GroupAcceptedFrame as GroupAccepted,
  GroupConversation as Group,
  HelloFrame as Hello,
  Image,
  QueuedMessage,
  ServerFrame,
  ShownEvent as AgentEvent,
  TokenUsage as Usage,
} from "../../protocol/dispatch.js";

export type Role = wire.StoredLine["role"];
/** A chunk of a turn that is not sealed. */
export type Line = { role: Role; chunk: wire.Chunk };
/** A chunk with its place in the conversation; all that changes is whether it counts. */
export type StoredChunk = {
  seq: number; role: Role; chunk: wire.Chunk; superseded?: boolean | undefined;
};

/** What a message may carry beside its text (native.md 1.2 and Part 2). */
export type SendFields = Partial<
  Pick<
    wire.ChatSendFrame,
    "images" | "model" | "cwd" | "reasoningEffort" | "workspaceId" | "onBusy"
  >
>;

/** A row of a group's timeline; null as `seq` while a member has not said a word. */
export type GroupRow = Omit<wire.GroupEvent, "seq"> & { seq: number | null };
/** A frame of a group: by `kind`, then `phase`, `progress` and `scope` (groups.md 4). */
export type GroupFrame = { kind: string; groupId: string } & Record<string, any>;
