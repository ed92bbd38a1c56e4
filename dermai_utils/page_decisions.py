"""The part of report.html about what its calls are worth: rules and thresholds, abstaining, subgroups, mistakes."""

import html

from dermai_utils.markup import figure, interval, num, p, rate, section, shown, table

RULE_NAMES = {
    "argmax": "argmax: the most probable class",
    "prior_adjusted": "prior-adjusted: probabilities divided by the classes' training shares",
    "prior_restored": "prior-restored: probabilities multiplied by the classes' training shares",
    "prior_tuned": "prior-tuned: probabilities divided by a power of the classes' training shares",
}
COLUMN_NAMES = {"age_band": "age, years", "confirmed_by": "how the diagnosis was confirmed"}


def same_images(found, otherwise=""):
    if found["chosen_and_scored_on_the_same_images"]:
        return p("Caution: there is no test part, so this was chosen on the very images that it is scored on. "
                 "The numbers flatter.", "note")  # fmt: skip
    return p(otherwise) if otherwise else ""


def decisions(found, folder):
    decided = found["decisions"]
    rows = [[f"{'<b>' if rule == decided['chosen'] else ''}{RULE_NAMES[rule]}{'</b>' if rule == decided['chosen'] else ''}",
             num(found, f"decisions/rules/{rule}/val/balanced_accuracy", "td"),
             *(interval(found, f"decisions/rules/{rule}/scored/{score}") for score in
               ("balanced_accuracy", "macro_f1", "accuracy"))] for rule in decided["rules"]]  # fmt: skip
    return section(
        "What should be called?",
        p("The same probabilities give different calls. Balanced accuracy wants rare classes called sooner; accuracy wants "
          "the common nevus. A network whose training favoured the rare classes (class weights, logit adjustment, a sampler) "
          "leans to them already; one trained plainly doesn't. "
          f"Validation speaks for: <b>{RULE_NAMES[decided['chosen']]}</b>. The power is {num(found, 'decisions/strength')}: of "
          "those that reach the best balanced accuracy there, give or take one image of the smallest class, the one that "
          "changes least. The headline above is by argmax; a submission to the challenge follows the rule."),
        same_images(found),
        table(["rule", "validation: balanced accuracy", "balanced accuracy", "macro F1", "accuracy"], rows,
              "In bold: the rule fixed on validation. The last three columns are on the part of the headline."),
        _points(found, folder),
        _abstaining(found, folder),
    )  # fmt: skip


def _points(found, folder):
    rows = [[point["finding"], f"{point['rate']} {100 * point['level']:.0f} %",
             num(found, f"operating_points/{k}/threshold", "td"),
             *(rate(found, f"operating_points/{k}/scored/{name}") for name in ("sensitivity", "specificity")),
             *(num(found, f"operating_points/{k}/scored/{name}", "td") for name in ("ppv", "npv"))]
            for k, point in enumerate(found["operating_points"])]  # fmt: skip
    return (
        "<h3>Melanoma or not, malignant or not</h3>"
        + p("A threshold is chosen on validation so that one rate is at least as asked; below, what it gives on this part. "
            "Malignant: melanoma, basal cell carcinoma, actinic keratosis. PPV and NPV hold for this mix of classes only.")
        + figure(folder / "operating_points.png", "Sensitivity and specificity with intervals at four thresholds, for melanoma "
                 "and for malignant against benign. The table below holds the values.")
        + table(["finding", "asked for", "threshold", "sensitivity", "specificity", "PPV", "NPV"], rows)
    )  # fmt: skip


def _abstaining(found, folder):
    points = found["risk_coverage"]["points"]
    rows = [[f"{100 * point['asked']:.0f} %", *(num(found, f"risk_coverage/points/{k}/{name}", "td")
             for name in ("threshold", "coverage", "risk", "n"))] for k, point in enumerate(points)]  # fmt: skip
    return (
        "<h3>If it may say “I don't know”</h3>"
        + p("Answering only the surest images lowers the share of wrong answers. Area under this curve, 0 at best: "
            f"{num(found, 'risk_coverage/aurc')}.")
        + figure(folder / "risk_coverage.png", "Share of wrong answers against share of images answered: "
                 + "; ".join(f"{shown(point['risk'])} wrong of {point['coverage']:.0%} answered" for point in points))
        + table(["share of validation answered", "confidence from", "share answered here", "share wrong", "n answered"], rows)
    )  # fmt: skip


def subgroups(found, folder):
    part = found["subgroups"]["part"]
    if part is None:
        return section("For whom?", p("No age, sex, localization or way of confirmation is given with these images."))
    tables = []
    for column, rows in found["subgroups"]["groups"].items():
        base = f"subgroups/groups/{column}"
        lines = [[f"{html.escape(str(row['group']))}{' <small class=mark>few</small>' if row['small'] else ''}",
                  *(num(found, f"{base}/{k}/{name}", "td") for name in ("n", "lesions", "classes")),
                  *(rate(found, f"{base}/{k}/{name}") for name in ("balanced_accuracy", "accuracy"))]
                 for k, row in enumerate(rows)]  # fmt: skip
        header = [COLUMN_NAMES.get(column, column), "images", "lesions", "classes", "balanced accuracy", "accuracy"]
        tables.append(table(header, lines))
    note = "" if part == found["headline"] else f"The part of the headline has no such data, so this is the {part} part. "
    return section(
        "For whom?",
        p(f"{note}Groups have different mixes of classes, and “classes” says how many of the seven occur: compare a group's "
          "balanced accuracy only with one of as many. Hollow dots and “few” mark groups under "
          f"{num(found, 'subgroups/small_below')} images: too few to read much into. How a diagnosis was confirmed is never "
          "an input of the model: follow-up, for one, means nevus."),
        figure(folder / "subgroups.png", "Forest plot of balanced accuracy and accuracy with 95 % intervals by age, sex, "
               "localization and way of confirmation. The tables below hold the values."),
        *tables,
    )  # fmt: skip


def mistakes(found, folder):
    part, pieces = found["headline"], []
    for kind, picture, title, words in (
        ("most_confident", "mistakes", "The most confident", "Some are the model's, some are hard for anybody. One image a "
         "lesion, here and below."),
        ("costly", "costly", "Those that cost most", "A malignant lesion called benign."),
        ("likely_mislabelled", "likely_mislabelled", "Labels that deserve a second look",
         "Called another class as surely as images of that class are on average, and not confirmed under the microscope "
         "(such labels are seldom wrong). These are candidates, not errors: most often the model is wrong."),
    ):  # fmt: skip
        count, rows = num(found, f"mistakes/counts/{kind}"), found["mistakes"][kind]
        lines = [[html.escape(row["image"]), row["truth"], row["prediction"],
                  num(found, f"mistakes/{kind}/{k}/confidence", "td"), html.escape(row["confirmed_by"] or "unknown")]
                 for k, row in enumerate(rows)]  # fmt: skip
        alt = "; ".join(f"{row['image']}, {row['truth']} called {row['prediction']}" for row in rows)
        pieces += [
            f"<h3>{title}</h3>",
            p(f"{words} There are {count} such images; {len(rows)} are shown." if rows else f"{words} There are none."),
        ]
        if rows:
            listed = table(["image", "label", "called", "confidence", "confirmed by"], lines)
            pieces.append(figure(folder / f"{picture}_{part}.png", f"Photographs of {len(rows)} dermoscopic images: {alt}"))
            pieces.append(f"<details><summary>As a table</summary>{listed}</details>")
    return section("Where is it wrong?", *pieces)
