// Package extract answers prompts that carry a passage by picking sentences of it, without a language model.
//
//	prompt                                         what it picks
//	a question about the passage                   the sentence that shares the rarest words with it, or the two that do so together
//	"Summarise ... in two sentences"               the sentences most like all others, in their order
//	"... in 50 words", "... in three points"       the same, as many as fit
//	no passage, or a task such as translating      nothing: it declines and says why
//
// A passage stands before or after the question, apart by an empty line, or either is labelled: "Passage: ...", "Question: ...".
// The same prompt always gets the same answer. Answers are English-minded: questions, tasks and lengths are recognised in English only.
//
// The package imports the standard library and package llm only.
package extract
