// In the audio thread: hands the microphone's samples on, 2048 at a time.

class Microphone extends AudioWorkletProcessor {
  samples = new Float32Array(2048);
  count = 0;

  process([[channel]]) {
    if (channel) {
      this.samples.set(channel, this.count);
      this.count += channel.length;
      if (this.count === this.samples.length) {
        this.port.postMessage(this.samples.slice());
        this.count = 0;
      }
    }
    return true;
  }
}

registerProcessor("microphone", Microphone);
