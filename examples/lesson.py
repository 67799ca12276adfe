"""A lesson on recurrent networks, from the plain RNN to a two-way LSTM with two layers.

    python examples/lesson.py
    python examples/lesson.py --rows 1000 --data sample

Four models learn to tell news of four classes apart. The networks are written as they would be for
Keras; only the import differs. Read it from top to bottom: each part builds on the one before.
"""

from __future__ import annotations

import argparse
import sys

import minirnn as keras
from minirnn import arguments, cli
from minirnn.data import Dataset, ag_news

VOCABULARY_SIZE = 20_000
CLASSES = ag_news.CLASS_NAMES


# --- 1. The data ----------------------------------------------------------------------------------
#
# A row of news is a title, a description, and a label from 0 to 3. A Dataset hands out such rows
# one after another; `map` makes something else of each, and `batch` puts several together.


def as_dataset(rows):
    """A Dataset whose elements are dicts, as those of TensorFlow Datasets are."""
    return Dataset.from_tensor_slices(
        {"title": rows.titles, "description": rows.descriptions, "label": rows.labels}
    )


def title_and_label(row):
    return row["title"], row["label"]


def text_and_label(row):
    return row["title"] + " " + row["description"], row["label"]


# --- 2. From words to numbers ---------------------------------------------------------------------
#
# A network computes with numbers. The vectorizer gives every word that it knows a number, the most
# frequent words first. 0 is kept for padding, and 1 for every word that it does not know.


def learn_vocabulary(news):
    vectorizer = keras.layers.TextVectorization(max_tokens=VOCABULARY_SIZE)
    vectorizer.adapt(news.take(2000).map(lambda row: row["title"]))

    words = vectorizer.get_vocabulary()
    print(f"\nThe vocabulary has {len(words):,} entries. It begins with {words[:10]}.")
    title = next(iter(news))["title"]
    numbers = vectorizer(title)
    print(f"{title!r} becomes {numbers.tolist()},")
    print(f"and back again {' '.join(words[number] for number in numbers)!r}.")
    return vectorizer


# --- 3. A plain recurrent network -----------------------------------------------------------------
#
# The Embedding turns each number into a vector of 64 numbers, which it learns. The SimpleRNN reads
# these vectors one after another and keeps a state of 16 numbers: h = tanh(x W + h U + b), with the
# same W, U and b at every word. The last state goes to the Dense layer, which gives each class a
# probability. Count the weights in the summary:
#
#     Embedding   20,000 words * 64                              = 1,280,000
#     SimpleRNN   W: 64 * 16, U: 16 * 16, b: 16                  =     1,296
#     Dense       16 * 4, and 4 for the bias                     =        68


def simple_rnn(vectorizer):
    return keras.models.Sequential(
        [
            vectorizer,
            keras.layers.Embedding(VOCABULARY_SIZE, 64),
            keras.layers.SimpleRNN(16),
            keras.layers.Dense(4, activation="softmax"),
        ]
    )


# --- 4. Texts of different length -----------------------------------------------------------------
#
# The texts of a batch stand in one array, so that the short ones are filled up with zeros. With
# titles that does little harm. With descriptions, many rows end in a long stretch of padding, and
# when the network has walked through that, it has half forgotten what it read. `mask_zero=True`
# tells the layers behind to skip the padding.


def show_padding(vectorizer, batches):
    texts, _ = next(iter(batches))
    numbers = vectorizer(texts)
    share = (numbers == 0).mean()
    print(f"\nA batch is an array of shape {numbers.shape}; {share:.0%} of it is padding.")


def masked_rnn(vectorizer):
    return keras.models.Sequential(
        [
            vectorizer,
            keras.layers.Embedding(VOCABULARY_SIZE, 64, mask_zero=True),
            keras.layers.SimpleRNN(16),
            keras.layers.Dense(4, activation="softmax"),
        ]
    )


# --- 5. LSTM: a memory that can be kept -----------------------------------------------------------
#
# On its way back through time, the gradient of a plain RNN is multiplied by the same matrix at each
# word, so that it fades away or grows without bound. An LSTM has a second state, the cell, to which
# it adds; gates between 0 and 1 say what to forget, what to add, and what to show. This one has no
# mask: see how it copes with padding, and whether one pass over the data is enough for it.


def lstm(vectorizer):
    return keras.models.Sequential(
        [
            vectorizer,
            keras.layers.Embedding(VOCABULARY_SIZE, 64),
            keras.layers.LSTM(8),
            keras.layers.Dense(4, activation="softmax"),
        ]
    )


# --- 6. Both directions, and two layers -----------------------------------------------------------
#
# A word is easier to understand when one knows what comes after it, too. Bidirectional runs one
# LSTM from the left and one from the right and puts their outputs side by side. The second layer
# needs an output for every word of the first, not only the last: hence `return_sequences=True`.


def bidirectional_lstm(vectorizer):
    return keras.models.Sequential(
        [
            vectorizer,
            keras.layers.Embedding(VOCABULARY_SIZE, 128, mask_zero=True),
            keras.layers.Bidirectional(keras.layers.LSTM(64, return_sequences=True)),
            keras.layers.Bidirectional(keras.layers.LSTM(64)),
            keras.layers.Dense(4, activation="softmax"),
        ]
    )


# --- The lesson -----------------------------------------------------------------------------------


def teach(title, model, ds_train, ds_test):
    """Train for one epoch; the accuracy on the test rows after it."""
    print(f"\n{title}\n")
    model.summary()
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["acc"])
    history = model.fit(ds_train, validation_data=ds_test)
    return history.history["val_acc"][-1]


def main(rows: int | None = None, data: str | None = None) -> dict[str, float]:
    """The whole lesson; the accuracy of each model on the test rows.

    rows: at most so many training rows, and as many test rows; None: all. data: where the news
    come from, as `minirnn.data.ag_news.load` takes it.
    """
    keras.utils.set_random_seed(0)
    news = ag_news.load(data)
    print(f"Data: {news.description}")
    train, test = as_dataset(news.train), as_dataset(news.test)
    if rows is not None:
        train, test = train.take(rows), test.take(rows)
    vectorizer = learn_vocabulary(train)

    titles, title_tests = train.map(title_and_label), test.map(title_and_label)
    texts, text_tests = train.map(text_and_label), test.map(text_and_label)

    accuracy = {}
    name = "A simple RNN on titles"
    accuracy[name] = teach(name, simple_rnn(vectorizer), titles.batch(16), title_tests.batch(16))

    show_padding(vectorizer, texts.batch(16))
    name = "A simple RNN on titles and descriptions, padding masked"
    accuracy[name] = teach(name, masked_rnn(vectorizer), texts.batch(16), text_tests.batch(16))

    name = "An LSTM on titles and descriptions"
    accuracy[name] = teach(name, lstm(vectorizer), texts.batch(8), text_tests.batch(8))

    name = "A two-layer bidirectional LSTM, padding masked"
    model = bidirectional_lstm(vectorizer)
    accuracy[name] = teach(name, model, texts.batch(16), text_tests.batch(16))

    which = "the generated sample, not AG News" if news.source == "sample" else "AG News"
    print(f"\nAfter one epoch, on the test rows of {which}:")
    for name, value in accuracy.items():
        print(f"    {value:.3f}  {name}")

    print("\nWhat the last model says of three of them:")
    for row in test.take(3):
        text, label = text_and_label(row)
        probabilities = model.predict([text])[0]
        guess = CLASSES[probabilities.argmax()]
        print(f"    {guess} ({probabilities.max():.2f}), it is {CLASSES[label]}: {row['title']}")
    return accuracy


def run(args: argparse.Namespace) -> int:
    main(args.rows, args.data)
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows", type=arguments.positive, metavar="N", help="at most N rows of each split"
    )
    parser.add_argument("--data", metavar="WHERE", help=arguments.DATA_HELP)
    parser.set_defaults(run=run)
    sys.exit(cli.run(parser))
