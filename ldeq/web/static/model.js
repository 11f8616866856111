// The model: two ONNX graphs, run by onnxruntime-web on the CPU. One computes the injection term of a crop; the other is a
// single evaluation of the cell, with the landmarks that its heatmaps give.

import * as ort from "./onnxruntime/ort.wasm.min.mjs";

export class Model {
  static async load(folder = "./model/") {
    // Threads need memory that they share, which a browser gives to isolated pages alone.
    ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, Math.ceil(navigator.hardwareConcurrency / 2)) : 1;
    // In a worker, so that the page answers while it computes.
    ort.env.wasm.proxy = true;
    ort.env.wasm.wasmPaths = new URL("./onnxruntime/", import.meta.url).href;
    const fetched = await fetch(new URL("model.json", new URL(folder, import.meta.url)));
    const session = (name) => ort.InferenceSession.create(new URL(folder + name, import.meta.url).href);
    return new Model(await fetched.json(), await session("injection.onnx"), await session("evaluation.onnx"));
  }

  constructor(about, injection, evaluation) {
    this.about = about;
    this.sessions = { injection, evaluation };
    const side = about.image_size / 4;
    this.stateShape = [1, about.layout.count, side, side];
    this.threads = ort.env.wasm.numThreads;
  }

  // The injection term of RGB bytes, image_size x image_size.
  async injection(crop) {
    const side = this.about.image_size;
    const { term } = await this.sessions.injection.run({ images: new ort.Tensor("uint8", crop, [1, side, side, 3]) });
    return term;
  }

  // Evaluations z <- f(z) from z0, or from zeros for null. `residual` is how far the state moved in the last one, in shares of
  // its norm. In a full solve that is the last one but one: the final evaluation is only read out.
  async solve(term, z0, evaluations) {
    let z = z0 ?? new ort.Tensor("float32", new Float32Array(this.stateShape.reduce((a, b) => a * b)), this.stateShape);
    let out;
    let residual;
    for (let done = 1; done <= evaluations; done++) {
      out = await this.sessions.evaluation.run({ z0: copyOf(z), term: copyOf(term) });
      z = out.z;
      if (done < evaluations || done === 1 || !this.about.final_evaluation) residual = out.residual.data[0];
    }
    return { landmarks: out.landmarks.data, std: out.std.data, z, residual };
  }
}

// What goes to the worker is gone here.
function copyOf(tensor) {
  return new ort.Tensor(tensor.type, tensor.data.slice(), tensor.dims);
}
