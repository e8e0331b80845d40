// VS Code's own AHP client behind a pipe: node client.mjs PACKAGES VERSION
//
// A line in is {id, do, ...}, a line out {id, result} or {id, error}, or an event: {envelope},
// {notification} or {state}. The verbs are the members of `verbs` below.
// Neighbours: `driver.py` speaks to it; `transport.mjs` is the connection.
// Invariant: what is folded here is folded by VS Code's code alone.
import { createInterface } from "node:readline";

import { vscode } from "./modules.mjs";
import { log, resources, settings, telemetry, trust } from "./services.mjs";
import { Transport } from "./transport.mjs";

const [packages, version] = process.argv.slice(2);
const HASTY = { autoRestore: true, initialDelayMs: 50, maxDelayMs: 200, maxAttempts: 200 };

const { URI } = await vscode(packages, "base/common/uri.js");
const { StateComponents } = await vscode(packages, "platform/agentHost/common/state/sessionState.js");
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

async function made(transport) {
  if (version === "0.5.1") {
    const name = "platform/agentHost/browser/remoteAgentHostProtocolClient.js";
    const { RemoteAgentHostProtocolClient } = await vscode(packages, name);
    const estimator = { hasHighLoad: () => false };
    return new RemoteAgentHostProtocolClient(
      "127.0.0.1", transport, estimator, log, resources, settings,
    );
  }
  const name = "platform/agentHost/browser/agentHostProtocolClient.js";
  const { AgentHostProtocolClient } = await vscode(packages, name);
  const options = { reconnectPolicy: HASTY, loadEstimator: { hasHighLoad: () => false } };
  return new AgentHostProtocolClient(
    "127.0.0.1", transport, options, log, resources, settings, telemetry, trust, trust, trust,
  );
}

// A chat that an older host tells is brought to the newest shapes when it is taken over.
async function normalized(state) {
  if (version === "0.5.1" || !Array.isArray(state.turns)) return state;
  const name = "platform/agentHost/common/state/legacyProtocolCompatibility.js";
  return (await vscode(packages, name)).normalizeLegacyChatStateErrors(state);
}

let client;
let transport;
const followed = new Map();

const verbs = {
  async connect({ url, offers }) {
    client = await made(() => (transport = new Transport(url, offers)));
    client.onDidAction((envelope) => say({ envelope }));
    client.onDidNotification((notification) => say({ notification }));
    client.onDidChangeConnectionState((state) => say({ state }));
    await client.connect();
    return { clientId: client.clientId };
  },
  async follow({ kind, uri }) {
    const component = kind === "chat" ? StateComponents.Chat : StateComponents.Session;
    const { object } = client.getSubscription(component, URI.parse(uri), "test");
    followed.set(uri, object);
    await new Promise((resolve, reject) => {
      if (object.value !== undefined) return resolve();
      object.onDidChange(resolve);
      object.onDidError(reject);
    });
    return object.verifiedValue;
  },
  state: ({ uri }) => ({ confirmed: followed.get(uri).verifiedValue, shown: followed.get(uri).value }),
  // The answer is awaited by nothing but promises, so no message comes between it and the state.
  async check({ uri }) {
    const snapshot = await client.subscribe(URI.parse(uri));
    const folded = followed.get(uri).verifiedValue;
    return { folded, snapshot: { ...snapshot, state: await normalized(snapshot.state) } };
  },
  dispatch: ({ channel, action }) => client.dispatch(channel, action),
  // What waits for its echo is told to whoever asks, not to the host.
  pending: () => client.getPendingActions?.() ?? [],
  createSession: async ({ provider, session }) =>
    String(await client.createSession({ provider, session: URI.parse(session) })),
  createChat: ({ session, chat, fork }) =>
    client.createChat(URI.parse(session), URI.parse(chat), fork && {
      fork: { source: URI.parse(fork.chat), turnId: fork.turnId },
    }),
  disposeChat: ({ chat }) => client.disposeChat(URI.parse(chat)),
  disposeSession: ({ session }) => client.disposeSession(URI.parse(session)),
  listSessions: async () =>
    (await client.listSessions()).map((one) => ({ ...one, session: String(one.session) })),
  resolveSessionConfig: ({ provider }) => client.resolveSessionConfig({ provider }),
  root: () => client.rootState.verifiedValue,
  drop: () => transport.dispose(),
  end: () => client.dispose(),
};

for await (const line of createInterface({ input: process.stdin })) {
  const { id, do: verb, ...params } = JSON.parse(line);
  Promise.resolve(params)
    .then((wanted) => verbs[verb](wanted))
    .then((result) => say({ id, result: result ?? null }))
    .catch((error) => say({ id, error: { code: error.code ?? 0, message: String(error.message) } }));
}
process.exit(0);
