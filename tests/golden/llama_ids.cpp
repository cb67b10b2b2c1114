// Ids of texts as llama.cpp makes them: golden values for make_vocabularies.py, which builds it.
//
//     llama_ids MODEL TEXTS     TEXTS holds, for each text, its size in 4 bytes and then the text
//
// For each text one line: its ids as plain text; then one with what the model's tokenizer adds.

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "llama.h"

static void print_ids(const llama_vocab* vocab, const std::string& text, bool add_special) {
  std::vector<llama_token> ids(2 * text.size() + 16);
  const int count = llama_tokenize(vocab, text.data(), static_cast<int32_t>(text.size()), ids.data(),
                                   static_cast<int32_t>(ids.size()), add_special, /*parse_special=*/false);
  for (int i = 0; i < count; ++i) std::printf(i ? " %d" : "%d", ids[i]);
  std::printf("\n");
}

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  llama_model_params params = llama_model_default_params();
  params.vocab_only = true;
  llama_model* model = llama_model_load_from_file(argv[1], params);
  if (model == nullptr) return 1;
  const llama_vocab* vocab = llama_model_get_vocab(model);
  std::ifstream texts(argv[2], std::ios::binary);
  uint32_t size = 0;
  while (texts.read(reinterpret_cast<char*>(&size), sizeof size)) {
    std::string text(size, '\0');
    texts.read(text.data(), size);
    print_ids(vocab, text, false);
    print_ids(vocab, text, true);
  }
  return 0;
}
