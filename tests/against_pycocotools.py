"""pycocotools' verdict on the objects and detections that byhand.ops is given."""

import contextlib
import io

import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


class HonestCOCOeval(COCOeval):
    """pycocotools, but for one thing: it overwrites the key "ignore" of the annotations, which stays here."""

    def _prepare(self):
        ignore = {id(a): a["ignore"] for a in self.cocoGt.dataset["annotations"]}
        super()._prepare()
        for annotations in self._gts.values():
            for annotation in annotations:
                annotation["ignore"] = bool(annotation["iscrowd"] or ignore[id(annotation)])


def pycocotools_verdict(truth, detections, class_names, masks=False):
    """The accumulated COCOeval: ``eval`` with precision, recall and scores, ``stats`` with the twelve numbers."""

    def width_height(box):
        x1, y1, x2, y2 = box.tolist()
        return [x1, y1, x2 - x1, y2 - y1]

    annotations, results = [], []
    for i, (objects, found) in enumerate(zip(truth, detections, strict=True)):
        n = len(objects.labels)
        none = torch.zeros(n, dtype=torch.bool)
        crowd = none if objects.crowd is None else objects.crowd
        ignored = none if objects.ignored is None else objects.ignored
        for j in range(n):
            x, y, w, h = width_height(objects.boxes[j])
            annotation = {
                "id": len(annotations) + 1,  # pycocotools takes 0 for "no match"
                "image_id": i,
                "category_id": int(objects.labels[j]),
                "bbox": [x, y, w, h],
                "area": w * h if objects.areas is None else float(objects.areas[j]),
                "iscrowd": int(crowd[j]),
                "ignore": int(ignored[j]),
            }
            if masks:
                annotation["segmentation"] = dict(objects.masks[j])
            annotations.append(annotation)
        for j in range(len(found.labels)):
            result = {"image_id": i, "category_id": int(found.labels[j]), "score": float(found.scores[j])}
            # Where both are given pycocotools takes the area of the box, also of masks.
            if masks:
                result["segmentation"] = dict(found.masks[j])
            else:
                result["bbox"] = width_height(found.boxes[j])
            results.append(result)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [
                {"id": i, **dict(zip(("height", "width"), _size(objects, found), strict=True))}
                for i, (objects, found) in enumerate(zip(truth, detections, strict=True))
            ],
            "categories": [{"id": k, "name": name} for k, name in enumerate(class_names)],
            "annotations": annotations,
            "info": {},
        }
        coco.createIndex()
        theirs = HonestCOCOeval(coco, _results(coco, results), "segm" if masks else "bbox")
        theirs.evaluate()
        theirs.accumulate()
        theirs.summarize()
    return theirs


def _size(objects, found):
    for masks in (objects.masks, found.masks):
        if masks:
            return masks[0]["size"]
    return (480, 640)


def _results(coco, results):
    if results:
        return coco.loadRes(results)
    empty = COCO()  # loadRes knows no empty list
    empty.dataset = {**coco.dataset, "annotations": []}
    empty.createIndex()
    return empty
