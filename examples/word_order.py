"""Why order matters: a bag of words against a recurrent network, on the generated sample.

    python examples/word_order.py

In the sample, many rows of different classes hold the very same words and differ in their order
("club buys software maker", "software maker buys club"). A bag of words cannot tell them apart, as
it only knows which words there are; a recurrent network reads them one after another.
"""

from __future__ import annotations

import argparse

import minirnn
from minirnn.layers import Dense, Embedding, SimpleRNN, TextVectorization


def bag_of_words() -> minirnn.Sequential:
    """Which words are there, and a weight for each of them."""
    words = TextVectorization(output_mode="multi_hot")
    return minirnn.Sequential([words, Dense(4, activation="softmax")])


def recurrent() -> minirnn.Sequential:
    """One word after another, with a state that remembers."""
    words = TextVectorization()
    return minirnn.Sequential(
        [
            words,
            Embedding(2000, 64, mask_zero=True),
            SimpleRNN(16),
            Dense(4, activation="softmax"),
        ]
    )


def main(epochs: int = 5, seed: int = 0) -> dict[str, float]:
    """Train both on the same rows; name → accuracy on the test rows of the sample."""
    news = minirnn.data.load_ag_news("sample")
    print(news.description)
    accuracy = {}
    for name, make in (("bag of words", bag_of_words), ("recurrent network", recurrent)):
        minirnn.set_random_seed(seed)
        model = make()
        model.layers[0].adapt(news.train.texts())
        model.compile("adam", "sparse_categorical_crossentropy", ["acc"])
        print(f"\n{name}:")
        model.fit(news.train.texts(), news.train.labels, batch_size=16, epochs=epochs)
        _, accuracy[name] = model.evaluate(news.test.texts(), news.test.labels, verbose=0)
    print()
    for name, value in accuracy.items():
        print(f"Accuracy on the test rows of the sample, {name}: {value:.3f}")
    return accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    main(arguments.epochs, arguments.seed)
