// A step of a model: its layers one after the other, in one call. What is computed is what `Decoder.forward` says; the
// residual stream and what is between the linears is float32, whatever the type of the model.
#include <chrono>

#include "context.h"

namespace {

typedef std::chrono::steady_clock Clock;

constexpr int64_t LINE = 16;  // floats of a cache line

int64_t whole_lines(int64_t floats) { return (floats + LINE - 1) / LINE * LINE; }

class Loop {
 public:
  Loop(NativeContext *context, const NativeModel &model, const NativeStep &step)
      : context_(context), model_(model), step_(step) {}

  int32_t run() {
    if (step_.tokens < 1) return NATIVE_OK;
    if (!are_ids_sound()) return NATIVE_BAD_SHAPE;
    if (!reserve()) return NATIVE_NO_MEMORY;
    began_ = step_.seconds ? Clock::now() : Clock::time_point();
    EmbedCall embed = {&model_, &step_, hidden_};
    rows(model_.hidden_size, [&](int64_t begin, int64_t end) { context_->kernels->embed_rows(embed, begin, end); });
    for (int64_t i = 0; i < model_.layers && status_ == NATIVE_OK; i++) layer(model_.layer[i]);
    norm(model_.norm, hidden_, step_.out, false);
    tell(PART_REST);
    return status_;
  }

 private:
  bool are_ids_sound() const {
    for (int64_t i = 0; !step_.given.data && i < step_.tokens; i++)
      if (step_.ids[i] < 0 || step_.ids[i] >= model_.vocab_size) return false;
    return true;
  }

  bool reserve() {
    int64_t qkv = 0, wide = 0, hidden = whole_lines(model_.hidden_size);
    for (int64_t i = 0; i < model_.layers; i++) {
      int64_t heads = whole_lines(model_.layer[i].qkv->n), gates = whole_lines(model_.layer[i].gate_up->n);
      qkv = heads > qkv ? heads : qkv, wide = gates > wide ? gates : wide;
    }
    if (!context_->activations.reserve(step_.tokens * (2 * hidden + qkv + wide) * 4)) return false;
    float *at = (float *)context_->activations.data;
    hidden_ = take(&at, hidden), spare_ = take(&at, hidden), qkv_ = take(&at, qkv), wide_ = take(&at, wide);
    return true;
  }

  NativeRows take(float **at, int64_t stride) const {
    NativeRows taken = {*at, TYPE_F32, 0, stride};
    *at += step_.tokens * stride;
    return taken;
  }

  void layer(const NativeLayer &layer) {
    RowMaker by_gate = {MADE_BY_GATE, model_.activation, nullptr, {}};
    linear(layer.qkv, prepared(layer.attention_norm), maker(layer.attention_norm), qkv_, {});
    // What is prepared is still there.
    if (model_.is_parallel) linear(layer.gate_up, prepared(layer.attention_norm), {}, wide_, {});
    HeadsCall heads = {&layer, &step_, qkv_};
    rows(layer.qkv->n, [&](int64_t begin, int64_t end) { context_->kernels->place_heads(heads, begin, end); });
    tell(PART_REST);
    attend(layer.attention);
    add(layer.output, qkv_, {}, layer.attention_post);
    if (!model_.is_parallel) linear(layer.gate_up, prepared(layer.mlp_norm), maker(layer.mlp_norm), wide_, {});
    add(layer.down, wide_, by_gate, layer.mlp_post);
  }

  NativeRows prepared(const NativeNorm &norm) const { return norm.kind == NORM_NONE ? hidden_ : spare_; }

  RowMaker maker(const NativeNorm &norm) const {
    if (norm.kind == NORM_NONE) return {};
    return {MADE_BY_NORM, 0, &norm, hidden_};
  }

  // The result of attention takes the place of the queries: whoever writes has read.
  void attend(const NativeAttention &attention) {
    if (!goes_on()) return;
    bool is_planned = is_planned_ && attention.window == window_;
    note(run_attention(context_, attention, step_.extents, step_.extent, qkv_, qkv_, is_planned));
    is_planned_ = true, window_ = attention.window;
    tell(PART_ATTENTION);
  }

  // hidden += post(linear(from))
  void add(const NativeLinear *weight, const NativeRows &from, const RowMaker &made, const NativeNorm &post) {
    if (post.kind == NORM_NONE) return linear(weight, from, made, hidden_, hidden_);
    linear(weight, from, made, spare_, {});
    norm(post, spare_, hidden_, true);
    tell(PART_REST);
  }

  void linear(const NativeLinear *weight, const NativeRows &from, const RowMaker &made, const NativeRows &y,
              const NativeRows &residual) {
    if (!goes_on()) return;
    note(run_linear(context_, {weight, step_.tokens, model_.type, from, y, residual, made, {}}));
    tell(PART_LINEARS);
  }

  void norm(const NativeNorm &norm, const NativeRows &x, const NativeRows &y, bool adds) {
    NormCall call = {&norm, model_.hidden_size, x, y, adds};
    rows(model_.hidden_size, [&](int64_t begin, int64_t end) { context_->kernels->norm_rows(call, begin, end); });
  }

  // Work on all rows, each of so many numbers.
  template <class Work>
  void rows(int64_t size, const Work &work) {
    context_->pool.run(step_.tokens, SHARED_NUMBERS / size + 1, work);
  }

  // Whether there is anything to be computed still.
  bool goes_on() {
    if (step_.rings && __atomic_load_n(step_.rings, __ATOMIC_RELAXED) != step_.heard) note(NATIVE_INTERRUPTED);
    return status_ == NATIVE_OK;
  }

  void note(int32_t status) { status_ = status_ == NATIVE_OK ? status : status_; }

  void tell(NativePart part) {
    if (!step_.seconds) return;
    Clock::time_point now = Clock::now();
    step_.seconds[part] += std::chrono::duration<double>(now - began_).count();
    began_ = now;
  }

  NativeContext *context_;
  const NativeModel &model_;
  const NativeStep &step_;
  NativeRows hidden_ = {}, spare_ = {}, qkv_ = {}, wide_ = {};
  int32_t status_ = NATIVE_OK;
  bool is_planned_ = false;
  int64_t window_ = 0;
  Clock::time_point began_;
};

}  // namespace

extern "C" int32_t servery_step(NativeContext *context, const NativeModel *model, const NativeStep *step) {
  return Loop(context, *model, *step).run();
}
