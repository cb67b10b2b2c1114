// Attention: how a step's rows are cut into tasks, and how the tasks run.
#include <algorithm>
#include <climits>

#include "program.h"

namespace pagemill {

namespace {

constexpr int kFewRows = 8;          // query rows of a task where threads have few tasks
constexpr int kTasksAThread = 8;     // that there should be, each with its number of query rows
constexpr int kPackedQueries = 256;  // tokens of a text that share keys and values packed for one head

constexpr int num_chunks(int tokens) { return (tokens + kChunk - 1) / kChunk; }

constexpr int round_up(int n, int to) { return (n + to - 1) / to * to; }

// Floats that the packed keys and values of one head need, for `queries` tokens of a text.
size_t packed_size(int tokens, int dim, int window, int queries) {
  if (window) tokens = (int)std::min<int64_t>(tokens, (int64_t)queries + 2 * (int64_t)window);
  return (size_t)(round_up(tokens, kChunk) + kChunk) * 2 * padded(dim);
}

}  // namespace

int Program::plan_of(int group, int window, bool dense, int kv_heads) {
  for (size_t i = 0; i < plans_.size(); i++) {
    const AttentionPlan& plan = plans_[i];
    if (plan.group == group && plan.window == window && plan.dense == dense && plan.kv_heads == kv_heads)
      return (int)i;
  }
  plans_.push_back({group, window, dense, kv_heads, std::min(group, kFewRows), {}, {}});
  return (int)plans_.size() - 1;
}

// Sorts the step's rows by the pages that they begin with, those of one token first.
void Program::find_neighbours() {
  neighbours_.clear();
  const auto pages = [&](int row) { return step_.page_table + (size_t)row * step_.pages_per_row; };
  const auto full = [&](int row) { return pages(row) + step_.kv_lens[row] / step_.page_size; };
  const auto several = [&](int row) { return step_.row_starts[row + 1] - step_.row_starts[row] > 1; };
  for (int row = 0; row < step_.rows; row++) neighbours_.push_back({row, 0});
  if (std::all_of(plans_.begin(), plans_.end(), [](const AttentionPlan& plan) { return plan.dense; })) return;
  std::sort(neighbours_.begin(), neighbours_.end(), [&](const Neighbour& a, const Neighbour& b) {
    if (several(a.row) != several(b.row)) return several(b.row);
    return std::lexicographical_compare(pages(a.row), full(a.row), pages(b.row), full(b.row));
  });
  for (size_t i = 1; i < neighbours_.size(); i++) {
    const int before = neighbours_[i - 1].row, row = neighbours_[i].row;
    const auto differ = std::mismatch(pages(row), full(row), pages(before), full(before)).first;
    neighbours_[i].shared = (int)(differ - pages(row)) * step_.page_size;
  }
}

// Cuts each row's tokens into pieces: over pages, of as many query rows as attend together; in whole texts,
// of as many tokens as make packing keys and values worth it.
void Program::plan_attention(AttentionPlan& plan) const {
  plan.pieces.clear(), plan.tasks.clear();
  // Many rows together are faster, but each thread should find several tasks.
  const int64_t share = (int64_t)step_.tokens * plan.group * plan.kv_heads / (kTasksAThread * pool_->size());
  const int rows = (int)std::clamp<int64_t>(share, kFewRows, kTaskRows);
  const int most = plan.dense ? kPackedQueries : std::max(1, rows / plan.together);
  for (const Neighbour& next : neighbours_) {
    const int count = step_.row_starts[next.row + 1] - step_.row_starts[next.row];
    for (int first = 0; first < count; first += most)
      plan.pieces.push_back({next.row, first, std::min(most, count - first), first ? INT_MAX : next.shared});
  }
  for (int from = 0, to; from < (int)plan.pieces.size(); from = to) {
    to = plan.dense ? from + 1 : end_of_group(plan, from);
    cut_group(plan, from, to, rows);
  }
  const auto lonely = [&](const Task& task) { return is_lonely(plan, task); };
  std::stable_sort(plan.tasks.begin(), plan.tasks.end(), [&](const Task& a, const Task& b) {
    return lonely(a) != lonely(b) ? lonely(b) : a.cost > b.cost;
  });
  plan.first_lonely = (int)(std::find_if(plan.tasks.begin(), plan.tasks.end(), lonely) - plan.tasks.begin());
}

// Of one token: it shares its keys and values with no other task.
bool Program::is_lonely(const AttentionPlan& plan, const Task& task) const {
  return task.count == 1 && plan.pieces[task.first].count == 1;
}

// Chunks before a piece's first token, if it sees them all: what it may share.
int Program::chunks_before(const AttentionPlan& plan, const Piece& piece) const {
  const int position = step_.positions[step_.row_starts[piece.row] + piece.first];
  return plan.window && position >= plan.window ? 0 : position / kChunk;
}

// Pieces from `from` on whose histories begin with the same chunks: the next one joins where that saves more
// than the others lose when they share no more than it has.
int Program::end_of_group(const AttentionPlan& plan, int from) const {
  int shared = chunks_before(plan, plan.pieces[from]), to = from + 1;
  for (; to < (int)plan.pieces.size(); to++) {
    const Piece& piece = plan.pieces[to];
    const int less = std::min({shared, piece.shared / kChunk, chunks_before(plan, piece)}), count = to - from;
    if (!less || (int64_t)less * count < (int64_t)shared * (count - 1)) break;
    shared = less;
  }
  return to;
}

// Makes tasks of pieces that share their beginning, with at most `most` query rows and about as many each.
void Program::cut_group(AttentionPlan& plan, int from, int to, int most) const {
  int rows = 0, opened = 0, taken = 0, in_task = 0;
  for (int i = from; i < to; i++) rows += plan.pieces[i].count * plan.together;
  const int tasks = (rows + most - 1) / most;
  for (int i = from; i < to; i++) {
    const Piece& piece = plan.pieces[i];
    const int more = piece.count * plan.together, before = chunks_before(plan, piece);
    if (!opened || in_task + more > most || (int64_t)taken * tasks >= (int64_t)opened * rows) {
      plan.tasks.push_back({i, 0, before, 0});
      opened++, in_task = 0;
    }
    Task& task = plan.tasks.back();
    if (task.count++) task.shared = std::min({task.shared, piece.shared / kChunk, before});
    task.cost += cost_of(plan, piece);
    in_task += more, taken += more;
  }
}

// Tokens that a piece's queries see, together.
int64_t Program::cost_of(const AttentionPlan& plan, const Piece& piece) const {
  const int count = step_.row_starts[piece.row + 1] - step_.row_starts[piece.row];
  int seen = plan.dense ? count : step_.kv_lens[piece.row] - count + piece.first + piece.count;
  if (plan.window) seen = std::min(seen, plan.window * (plan.dense ? 2 : 1) + piece.count);
  return (int64_t)seen * piece.count;
}

// What a thread needs for the largest task of this step.
void Program::place_scratch() {
  int longest = 0;
  for (int row = 0; row < step_.rows; row++)
    longest = std::max(longest, step_.row_starts[row + 1] - step_.row_starts[row]);
  for (const Instruction& i : instructions_) {
    size_t size = 0;
    if (i.op == Op::attend) size = scratch_size(kTaskRows, i.kv->layer(0).padded_dim);
    if (i.op == Op::attend_dense)
      size = scratch_size(kTaskRows, padded(i.width)) +
             packed_size(longest, i.width, i.scoring.window, kPackedQueries);
    if (i.op == Op::linear_heads) size = padded(i.matrix->n()) + kTile;
    scratch_stride_ = std::max(scratch_stride_, (size + 15) / 16 * 16);
  }
  for (int chunk = (int)chunks_.size(); chunk * kChunk < longest + kChunk; chunk++) chunks_.push_back(chunk);
  const size_t bytes = scratch_stride_ * sizeof(float) * pool_->size();
  if (scratch_.size() < bytes) scratch_ = Block(bytes);
}

void Program::run_attention(const Instruction& i, Shares& shares, int thread) {
  const KvLayer layer = i.kv->layer(i.layer);
  const AttentionPlan& plan = plans_[i.plan];
  const int parts = (plan.group + plan.together - 1) / plan.together, per_task = layer.kv_heads * parts;
  const int behind = i.scoring.window ? i.scoring.window - 1 : INT_MAX;
  float* scratch = scratch_.as<float>() + scratch_stride_ * thread;
  const auto pages = [&](const Piece& piece) {
    return step_.page_table + (size_t)piece.row * step_.pages_per_row;
  };
  const auto token = [&](const Piece& piece) { return step_.row_starts[piece.row] + piece.first; };
  // Tasks of texts go head by head, so one head's keys and values stay in the caches for all of them; lonely
  // ones go by tokens, whose heads lie side by side.
  const auto place = [&](int item) {
    if (item >= plan.first_lonely * per_task) return std::pair(item / per_task, item % per_task);
    return std::pair(item % plan.first_lonely, item / plan.first_lonely);
  };
  std::vector<Queries> queries;
  bool asked = false;
  const auto attend = [&](int item, int after) {
    const auto [at_task, in_task] = place(item);
    const auto [next_task, in_next] = place(std::max(after, 0));
    const Task& task = plan.tasks[at_task];
    const Piece *pieces = &plan.pieces[task.first], &next = plan.pieces[plan.tasks[next_task].first];
    const int kv_head = in_task / parts, part = in_task % parts;
    const int head = kv_head * plan.group + part * plan.together,
              heads = std::min(plan.together, plan.group - part * plan.together);
    const size_t column = (size_t)head * i.width;
    queries.clear();
    for (const Piece* piece = pieces; piece < pieces + task.count; piece++)
      queries.push_back({at(i.a, token(*piece)) + (size_t)head * layer.dim, at(i.out, token(*piece)) + column,
                         piece->count, step_.positions[token(*piece)], step_.kv_lens[piece->row],
                         pages(*piece)});
    const int next_first = std::max(0, step_.positions[token(next)] - behind) / kChunk;
    // A last part with fewer heads than the others still fits: the kernel takes what rows there are.
    kernels_.attend(layer, {.queries = queries.data(),
                            .sequences = task.count,
                            .shared = task.count > 1 ? task.shared : 0,
                            .group = heads,
                            .q_stride = (size_t)buffers_[i.a.buffer].stride,
                            .out_stride = (size_t)buffers_[i.out.buffer].stride,
                            .behind = behind,
                            .ahead = 0,
                            .chunks_per_page = step_.page_size / kChunk,
                            .kv_head = kv_head,
                            .value_dim = i.width,
                            .scale = i.scoring.scale,
                            .softcap = i.scoring.softcap,
                            .sinks = i.vector ? i.vector->values.data() + head : nullptr,
                            .scratch = scratch,
                            .next_pages = pages(next),
                            .next_first = next_first,
                            .next_chunks = after < 0 ? 0 : num_chunks(step_.kv_lens[next.row]) - next_first,
                            .next_kv_head = in_next / parts,
                            .asked = asked});
    asked = after >= 0 && is_lonely(plan, task);
    if (!i.quantized) return;
    for (const Piece* piece = pieces; piece < pieces + task.count; piece++)
      for (int t = token(*piece); t < token(*piece) + piece->count; t++)
        kernels_.quantize(at(i.out, t), (int)column / kGroup, (int)column + heads * i.width,
                          activation(i.out.buffer), t);
  };
  const int items = (int)plan.tasks.size() * per_task;
  if (items < 4 * pool_->size())  // too few for a thread to hold two
    shares.each(items, 1, [&](int item, int) { attend(item, -1); });
  else
    shares.each_ahead(items, attend);
}

void Program::run_dense_attention(const Instruction& i, Shares& shares, int thread) {
  const AttentionPlan& plan = plans_[i.plan];
  float* scratch = scratch_.as<float>() + scratch_stride_ * thread;
  shares.each((int)plan.tasks.size() * i.kv_heads, 1, [&](int item, int) {
    attend_packed(i, plan.pieces[plan.tasks[item / i.kv_heads].first], item % i.kv_heads, scratch);
  });
}

// Packs one head's keys and values of what a piece's tokens see, as a cache of one page, and attends.
void Program::attend_packed(const Instruction& i, const Piece& piece, int kv_head, float* scratch) {
  const AttentionPlan& plan = plans_[i.plan];
  const int dim = i.width, start = step_.row_starts[piece.row],
            count = step_.row_starts[piece.row + 1] - start;
  const int reach = i.scoring.window ? i.scoring.window - 1 : count;
  const int from = std::max(0, piece.first - reach) / kChunk * kChunk,
            to = (int)std::min<int64_t>(count, (int64_t)piece.first + piece.count + reach);
  float* packed = scratch + scratch_size(kTaskRows, padded(dim));
  const KvLayer layer{packed, CacheKind::f32, 1, dim, padded(dim), chunk_bytes(CacheKind::f32, dim), 1};
  if (dim < layer.padded_dim)
    std::fill_n(packed, (size_t)round_up(to - from, kChunk) * 2 * layer.padded_dim, 0);
  // A head's columns of successive tokens lie far apart: they are asked for ahead of their use.
  constexpr int kAhead = 12;
  const auto fetch = [&](View view, int token, int head, int width) {
    const char* line = (const char*)(at(view, start + token) + (size_t)head * dim);
    for (size_t byte = 0; byte < width * sizeof(float); byte += 64) __builtin_prefetch(line + byte);
  };
  for (int token = from; token < to; token++) {
    if (token + kAhead < to)
      fetch(i.b, token + kAhead, kv_head, dim), fetch(i.c, token + kAhead, kv_head, dim);
    if (token >= piece.first && token < piece.first + piece.count)
      fetch(i.a, token, kv_head * plan.group, plan.group * dim);
    kernels_.store_key(layer, token - from, 0, at(i.b, start + token) + (size_t)kv_head * dim, 0, dim);
    kernels_.store_value(layer, token - from, 0, at(i.c, start + token) + (size_t)kv_head * dim, dim);
  }
  const int together = std::max(1, kTaskRows / plan.together);
  for (int first = piece.first; first < piece.first + piece.count; first += together)
    for (int part = 0; part < plan.group; part += plan.together) {
      const int head = kv_head * plan.group + part, heads = std::min(plan.together, plan.group - part);
      const int tokens = std::min(together, piece.first + piece.count - first), token = start + first;
      const size_t column = (size_t)head * dim;
      const Queries queries{
          at(i.a, token) + column, at(i.out, token) + column, tokens, first - from, to - from,
          chunks_.data()};
      kernels_.attend(layer, {.queries = &queries,
                              .sequences = 1,
                              .shared = 0,
                              .group = heads,
                              .q_stride = (size_t)buffers_[i.a.buffer].stride,
                              .out_stride = (size_t)buffers_[i.out.buffer].stride,
                              .behind = reach,
                              .ahead = reach,
                              .chunks_per_page = 1,
                              .kv_head = 0,
                              .value_dim = dim,
                              .scale = i.scoring.scale,
                              .softcap = i.scoring.softcap,
                              .scratch = scratch});
      if (!i.quantized) continue;
      for (int t = token; t < token + tokens; t++)
        kernels_.quantize(at(i.out, t), (int)column / kGroup, (int)column + heads * dim,
                          activation(i.out.buffer), t);
    }
}

}  // namespace pagemill
