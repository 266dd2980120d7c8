// What the page says, in English and Chinese, and errors as sentences.

const TEXTS = {
  en: {
    title: "Speech to text",
    model: "Model",
    compare: "Compare with",
    nothing: "nothing",
    language: "Spoken language",
    detect: "detect",
    task: "Task",
    transcribe: "Transcribe",
    translate: "Translate into English",
    key: "Server key",
    audio: "Audio",
    drop: "Drop audio or video files here, or",
    choose: "Choose files",
    record: "Record",
    stop: "Stop recording",
    kept: "Nothing that you send is kept on the server.",
    recording: "Recording",
    waiting: "Waiting …",
    working: "Transcribing …",
    listening: "Listening …",
    done: "Done.",
    silent: "No speech detected.",
    cancelled: "Cancelled.",
    cancel: "Cancel",
    remove: "Remove",
    again: "Try again",
    copy: "Copy",
    copied: "Copied",
    download: "Download as",
    differences: (count) => (count === 1 ? "1 word differs." : `${count} words differ.`),
    same: "The two texts are the same.",
    lines: "Text: press a line to hear it",
  },
  zh: {
    title: "语音转文字",
    model: "模型",
    compare: "对比模型",
    nothing: "不对比",
    language: "语音的语言",
    detect: "自动检测",
    task: "任务",
    transcribe: "转写",
    translate: "翻译成英语",
    key: "服务器密钥",
    audio: "音频",
    drop: "将音频或视频文件拖到这里，或",
    choose: "选择文件",
    record: "录音",
    stop: "停止录音",
    kept: "服务器不会保留您发送的任何内容。",
    recording: "录音",
    waiting: "等待中……",
    working: "正在转写……",
    listening: "正在聆听……",
    done: "完成。",
    silent: "没有检测到语音。",
    cancelled: "已取消。",
    cancel: "取消",
    remove: "移除",
    again: "重试",
    copy: "复制",
    copied: "已复制",
    download: "下载为",
    differences: (count) => `有 ${count} 个词不同。`,
    same: "两段文字相同。",
    lines: "文字，每行一个按钮：按下即可收听",
  },
};

// By the code, the parameter or the status of an answer.
const ERRORS = {
  en: {
    queue_full: "The server is busy. Try again in a moment.",
    audio_too_long: "This recording is longer than the server allows. Split it into parts.",
    model_not_found: "The server no longer has this model. Reload the page.",
    file: "This file can't be read as audio. Try WAV, MP3, FLAC, OGG, M4A or WebM.",
    401: "The server requires a key. Enter it above and try again.",
    413: "This file is larger than the server allows. Compress it, or split it into parts.",
    500: "The server failed on this file. See its log.",
    network: "The server can't be reached. Is it still running?",
    microphone: "Microphone access is blocked. Allow it in the browser's address bar.",
    none: "No microphone was found.",
    insecure: "Browsers allow microphone access only over https or on localhost. Open the page that way, or choose a file.",
    other: (message) => `The server reports: ${message}.`,
  },
  zh: {
    queue_full: "服务器正忙，请稍后再试。",
    audio_too_long: "录音超过了服务器允许的长度，请分段后再试。",
    model_not_found: "服务器上已没有这个模型，请重新加载页面。",
    file: "无法将此文件作为音频读取，请使用 WAV、MP3、FLAC、OGG、M4A 或 WebM。",
    401: "服务器需要密钥，请在上方输入后重试。",
    413: "文件超过了服务器允许的大小，请压缩或分段后再试。",
    500: "服务器处理此文件时出错，原因见其日志。",
    network: "无法连接服务器，它还在运行吗？",
    microphone: "没有使用麦克风的权限，请在浏览器地址栏中允许。",
    none: "没有找到麦克风。",
    insecure: "浏览器只允许 https 或 localhost 页面使用麦克风。请用这种方式打开页面，或选择文件。",
    other: (message) => `服务器提示：${message}。`,
  },
};

let language = navigator.language.startsWith("zh") ? "zh" : "en";

export const pageLanguage = () => language;
export const text = (key, ...values) => {
  const found = TEXTS[language][key];
  return typeof found === "function" ? found(...values) : found;
};

/** Return an error as a sentence; `error` has code, param, status and message as far as they are known. */
export function sentence(error) {
  const known = ERRORS[language];
  const key = [error.code, error.param, error.status].find((name) => name in known);
  return key === undefined ? known.other(String(error.message).replace(/\.$/, "")) : known[key];
}

/** Speak another language from now on: everything that has a data-text or a data-label. */
export function speak(other) {
  language = other;
  document.documentElement.lang = other === "zh" ? "zh-CN" : "en";
  document.title = text("title");
  for (const node of document.querySelectorAll("[data-text]")) node.textContent = text(node.dataset.text);
  for (const node of document.querySelectorAll("[data-label]")) node.setAttribute("aria-label", text(node.dataset.label));
}
