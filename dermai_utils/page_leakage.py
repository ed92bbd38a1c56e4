"""The part of report.html about leakage: what the split keeps apart, one lesion under two ids, and what leaking is worth."""

import html

from dermai_utils.markup import figure, interval, num, p, pretty, section, shown, table


def leakage(found, audit, folder):
    if not audit:
        return ""
    counts = {name: row for name, row in audit.items() if isinstance(row, dict)}
    names = list(dict.fromkeys(key for row in counts.values() for key in row if not isinstance(row[key], dict | list)))
    rows = [[pretty(key), *(f"<td>{shown(row.get(key))}</td>" for row in counts.values())] for key in names]
    return section(
        "Does anything leak?",
        p("Many lesions were photographed more than once. Where pictures of one lesion lie on both sides of a split, a model "
          f"can score by recognising the lesion. This run's split is by <b>{html.escape(str(audit.get('strategy')))}</b>; the "
          "table counts what leaks in it, and in the other kind."),
        table(["", *(f"{name} split" for name in counts)], rows, "From leakage.json."),
        _near_duplicates(found, folder),
        _inflation(found, folder),
    )  # fmt: skip


def _near_duplicates(found, folder):
    counts = found["near_duplicates"]
    if not counts["pairs"]:
        return ""
    some = figure(folder / "some_near_duplicates.jpg", "Six pairs of photographs, each pair side by side: one lesion under two "
                  "ids.", "Some of the pairs, from the first to the last of the list.")  # fmt: skip
    every = figure(folder / "near_duplicates.jpg", "All pairs of the list of near-duplicates, each pair side by side.")
    official = f"; {num(found, 'near_duplicates/with_official')} more tie a training image to an official test image"
    return (
        "<h3>The same lesion under two ids</h3>"
        + p(f"{num(found, 'near_duplicates/pairs')} pairs of images have different lesion ids and yet show one lesion, as far "
            "as keypoints tell that agree on one shift, turn and zoom. Of them "
            f"{num(found, 'near_duplicates/in_two_parts')} lie in two parts of this split"
            f"{official if counts['with_official'] else ''}. Judge for yourself: the same dots, vessels or hairs in the same "
            "places.")
        + some
        + f"<details><summary>All pairs side by side</summary>{every}</details>"
    )  # fmt: skip


def _inflation(found, folder):
    about = found["inflation"]
    if not about or not about["prone_images"]:
        return ""
    base = "inflation/classifiers"
    rows = [[name, *(num(found, f"{base}/{name}/{deal}", "td") for deal in ("random", "lesion")),
             interval(found, f"{base}/{name}", ("/difference", "/low", "/high")),
             *(num(found, f"{base}/{name}/all_images/{deal}", "td") for deal in ("random", "lesion"))]
            for name in about["classifiers"]]  # fmt: skip
    words = [f"{name} {shown(row['random'])} with images dealt at random, {shown(row['lesion'])} with lesions kept whole"
             for name, row in about["classifiers"].items()]  # fmt: skip
    return (
        "<h3>What leakage is worth</h3>"
        + p(f"Two simple classifiers on frozen ImageNet features ({html.escape(about['backbone'])}, "
            f"{num(found, 'inflation/image_size')} px), trained and tested twice: with images dealt at random, and with "
            f"lesions kept whole ({num(found, 'inflation/folds')} folds, {len(about['seeds'])} seeds). Of "
            f"{num(found, 'inflation/images')} images {num(found, 'inflation/prone_images')} have another view of their "
            "lesion, and there the two predictions of one image are compared. Nothing but the split differs, so the "
            "difference is what a random split adds to a number.")
        + figure(folder / "inflation.png", f"Dots: balanced accuracy of {'; '.join(words)}.")
        + table(["", "dealt at random", "lesions kept whole", "difference", "all images: at random", "all images: kept whole"],
                rows, "Balanced accuracy on the images of which another view exists; 95 % intervals by lesion.")
    )  # fmt: skip
