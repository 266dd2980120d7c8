// The microphone: recorded for the page, and sent to the server as it comes.

const PREFIX = "conversation.item.input_audio_transcription";

function base64(samples) {
  const bytes = new Uint8Array(2 * samples.length);
  const view = new DataView(bytes.buffer);
  samples.forEach((sample, n) => view.setInt16(2 * n, Math.max(-1, Math.min(1, sample)) * 32767, true));
  return btoa(String.fromCharCode(...bytes));
}

/** Return a connection that is ready to take samples, or null where there is none to be had. */
function connect({ model, language, task, key }, rate, heard) {
  const url = new URL("v1/realtime", location.href.replace(/^http/, "ws"));
  const socket = new WebSocket(url, ["realtime", ...(key ? [`openai-insecure-api-key.${key}`] : [])]);
  const transcription = { model, language, task: task === "translations" ? "translate" : "transcribe" };
  const input = { format: { type: "audio/pcm", rate }, transcription };
  return new Promise((resolve) => {
    socket.onopen = () =>
      socket.send(JSON.stringify({ type: "session.update", session: { type: "transcription", audio: { input } } }));
    socket.onclose = () => resolve(null);
    socket.onmessage = ({ data }) => {
      const event = JSON.parse(data);
      if (event.type === "session.updated") resolve(socket);
      if (event.type === "error") resolve(null);
      heard(event);
    };
  });
}

/**
 * Record until `stop` is called.
 *
 * `heard` is told {item, start, end, text, final} of each turn, as it is known so far. `stop` returns {blob, live}: the
 * recording, and whether the turns are all that was said in it.
 */
export async function record(options, heard) {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const context = new AudioContext();
  await context.audioWorklet.addModule("microphone.js");
  const turns = new Map();
  let open = 0; // turns whose text is awaited
  let settle = null;
  const told = (event) => {
    const item = event.item_id;
    const turn = turns.get(item) ?? { item, start: 0, end: null, text: "", final: false };
    if (event.type === "input_audio_buffer.speech_started") {
      turn.start = event.audio_start_ms / 1000;
      turns.set(item, turn);
      open++;
    } else if (event.type === "input_audio_buffer.speech_stopped") turn.end = event.audio_end_ms / 1000;
    else if (event.type === `${PREFIX}.delta`) turn.text += event.delta;
    else if (event.type === `${PREFIX}.completed`) Object.assign(turn, { text: event.transcript, final: true });
    else if (event.type === `${PREFIX}.failed`) turn.final = true;
    else return;
    if (turn.final) open--;
    heard(turn);
    if (!open) settle?.();
  };
  const socket = await connect(options, context.sampleRate, told);
  const recorder = new MediaRecorder(stream);
  const parts = [];
  recorder.ondataavailable = ({ data }) => parts.push(data);
  const source = context.createMediaStreamSource(stream);
  const node = new AudioWorkletNode(context, "microphone", { numberOfOutputs: 0 });
  node.port.onmessage = ({ data }) => {
    if (socket?.readyState === WebSocket.OPEN)
      socket.send(JSON.stringify({ type: "input_audio_buffer.append", audio: base64(data) }));
  };
  source.connect(node);
  recorder.start();

  return async () => {
    const stopped = new Promise((resolve) => (recorder.onstop = resolve));
    recorder.stop();
    await stopped;
    source.disconnect();
    stream.getTracks().forEach((track) => track.stop());
    await context.close();
    const live = socket?.readyState === WebSocket.OPEN;
    if (live) {
      socket.send(JSON.stringify({ type: "input_audio_buffer.commit" }));
      // The answer to what is not known comes after all that came before it.
      socket.send(JSON.stringify({ type: "input_audio_buffer.clear" }));
      await new Promise((resolve) => {
        settle = resolve;
        socket.onclose = resolve;
        socket.addEventListener("message", ({ data }) => {
          if (JSON.parse(data).type === "input_audio_buffer.cleared" && !open) resolve();
        });
      });
      socket.close();
    }
    return { blob: new Blob(parts, { type: recorder.mimeType }), live };
  };
}
