"""Every word that stands in a picture, in English and in Chinese, and the fonts that can write it."""

import logging
from collections.abc import Sequence
from pathlib import Path

from byhand.errors import unknown_name

LANGUAGES = ("en", "zh")

WORDS = {
    # curves
    "epoch": ("epoch", "训练轮次"),
    "loss_title": ("Loss by epoch", "每轮的损失"),
    "loss_axis": ("mean loss per example", "每个样本的平均损失"),
    "loss_axis_log": ("mean loss per example (log scale)", "每个样本的平均损失（对数坐标）"),
    "accuracy_title": ("Accuracy by epoch", "每轮的准确率"),
    "accuracy_axis": ("accuracy (share of images, 0–1)", "准确率（正确图像所占比例，0–1）"),
    "training": ("training, last {last}", "训练集，末轮 {last}"),
    "validation": ("validation, last {last}", "验证集，末轮 {last}"),
    "reported": ("source, test: {value}", "原文，测试集：{value}"),
    "reached": ("this run, test: {value}", "本次运行，测试集：{value}"),
    "not_finite": ("not a finite number", "非有限数值"),
    "no_loss": ("No loss to draw: no epoch recorded a finite one.", "没有可绘制的损失：没有任何一轮记录了有限数值。"),
    "no_accuracy": (
        "No accuracy to draw: no epoch recorded one\n(a regression has none).",
        "没有可绘制的准确率：没有任何一轮记录了准确率\n（回归任务没有准确率）。",
    ),
    # the search for a learning rate
    "lr_title": ("Loss while the learning rate rises", "学习率上升时的损失"),
    "lr_axis": ("learning rate (log scale)", "学习率（对数坐标）"),
    "batch_loss_axis": ("loss of a batch", "一个批次的损失"),
    "batch_loss": ("each batch", "每个批次"),
    "smoothed_loss": ("smoothed", "平滑后"),
    "suggested_lr": ("suggestion: {value}", "建议：{value}"),
    # predictions
    "predicted_title": ("Predicted against true", "预测值与真实值"),
    "true_value": ("true value", "真实值"),
    "predicted_value": ("predicted value", "预测值"),
    "examples": ("examples: {count}", "样本数：{count}"),
    "ideal": ("ideal: y = x", "理想：y = x"),
    "errors_title": ("What is left: predicted − true", "误差：预测值 − 真实值"),
    "error_axis": ("predicted − true", "预测值 − 真实值"),
    "root_mean_square": ("root mean square: ±{value}", "均方根：±{value}"),
    "no_values": ("No predictions to draw: none is a finite number.", "没有可绘制的预测：没有有限数值。"),
    "confusion_title": (
        "Confusion matrix: {right} of {total} right ({share})",
        "混淆矩阵：{total} 张中正确 {right} 张（{share}）",
    ),
    "predicted_class": ("predicted class", "预测类别"),
    "true_class": ("true class", "真实类别"),
    "row_share": ("share of the true class's images", "占该真实类别图像的比例"),
    "no_images": ("No images to draw.", "没有可绘制的图像。"),
    "mistakes_title": (
        "Mistakes: {count} of {total} images, here the {shown} surest; true → predicted, probability",
        "错误：{total} 张图像中 {count} 张，这里是最自信的 {shown} 张；真实 → 预测，概率",
    ),
    "all_mistakes_title": (
        "Mistakes: {count} of {total} images; true → predicted, probability",
        "错误：{total} 张图像中 {count} 张；真实 → 预测，概率",
    ),
    "no_mistakes": ("No mistake: all {total} images right.", "没有错误：{total} 张图像全部正确。"),
    # layers
    "first_layer": ("First layer", "第一层"),
    "filters_title": ("{layer}: {count} filters of {size}", "{layer}：{count} 个 {size} 卷积核"),
    "some_filters_title": (
        "{layer}: {shown} of {count} filters of {size}",
        "{layer}：{count} 个 {size} 卷积核中的前 {shown} 个",
    ),
    "templates_title": ("{layer}: weights of {count} units, {size}", "{layer}：{count} 个单元的权重，{size}"),
    "some_templates_title": (
        "{layer}: weights of {shown} of {count} units, {size}",
        "{layer}：{count} 个单元中前 {shown} 个的权重，{size}",
    ),
    "filter_rows": ("rows: filters; columns: input channels", "行：卷积核；列：输入通道"),
    "some_filter_rows": (
        "rows: filters; columns: the first {shown} of {count} input channels",
        "行：卷积核；列：{count} 个输入通道中的前 {shown} 个",
    ),
    "matrix_title": (
        "{layer}: weights, {count} units of {size} inputs",
        "{layer}：{count} 个单元、{size} 个输入的权重",
    ),
    "unit": ("unit", "单元"),
    "input": ("input", "输入"),
    "weight": ("weight", "权重"),
    "rgb_weights": (
        "weights as colour: grey is 0, full colour is ±{value}",
        "以颜色表示权重：灰色为 0，满色为 ±{value}",
    ),
    "features_title": ("One image through the layers", "一张图像经过各层"),
    "features_title_class": (
        "One image through the layers: {true}, predicted {predicted} ({share})",
        "一张图像经过各层：真实 {true}，预测 {predicted}（{share}）",
    ),
    "features_title_file": (
        "One image through the layers: {true}, predicted {predicted} ({share})",
        "一张图像经过各层：{true}，预测 {predicted}（{share}）",
    ),
    "input_image": ("input image", "输入图像"),
    "maps": ("{name}: {count} maps of {size}", "{name}：{count} 个 {size} 特征图"),
    "one_map": ("{name}: one map of {size}", "{name}：1 个 {size} 特征图"),
    "some_maps": ("{name}: {shown} of {count} maps of {size}", "{name}：{count} 个 {size} 特征图中的前 {shown} 个"),
    "values": ("{name}: {count} values from {low} to {high}", "{name}：{count} 个值，从 {low} 到 {high}"),
    "layer_maps_title": (
        "{name}: {count} maps of {size}, from {low} (dark) to {high} (bright)",
        "{name}：{count} 个 {size} 特征图，从 {low}（暗）到 {high}（亮）",
    ),
    "some_layer_maps_title": (
        "{name}: {shown} of {count} maps of {size}, from {low} (dark) to {high} (bright)",
        "{name}：{count} 个 {size} 特征图中的前 {shown} 个，从 {low}（暗）到 {high}（亮）",
    ),
    # class activation
    "cam_title": (
        "Grad-CAM at {layer}: which places speak for the class",
        "{layer} 处的 Grad-CAM：哪些位置支持该类别",
    ),
    "cam_true": ("true: {name}", "真实：{name}"),
    "cam_class": ("{name}: {share}", "类别 {name}：{share}"),
    "cam_nothing": ("{name}: {share}\nnothing for it here", "{name}：{share}\n此处没有支持"),
    "cam_scale": ("share of the image's greatest value", "占该图最大值的比例"),
    # receptive fields
    "field_title": (
        "Receptive field of each layer's middle unit",
        "各层中间单元的感受野",
    ),
    "field_of": ("{name}\n{size}, jump {jump}", "{name}\n{size}，跳距 {jump}"),
    "field_whole": ("{name}\nthe whole input", "{name}\n整个输入"),
    "field_frame": ("all that it can see", "理论感受野"),
    "field_image": ("edge of the image", "图像边缘"),
    "field_scale": (
        "mean |gradient| of the unit, share of its greatest",
        "该单元梯度绝对值的平均，占最大值的比例",
    ),
    # gradients
    "norms_title": (
        "Gradient norm of each layer while training, {dataset}, {steps} steps",
        "训练中各层的梯度范数，{dataset}，{steps} 步",
    ),
    "norms_axis": ("norm of the weight's gradient", "权重梯度的范数"),
    "norms_layer": ("layer, from the input on", "层（从输入开始）"),
    "norms_step": ("step", "步"),
    "with_shortcuts": ("ResNet-{depth}, with shortcuts", "ResNet-{depth}，有残差连接"),
    "without_shortcuts": ("plain-{depth}: the same without shortcuts", "plain-{depth}：同一网络，无残差连接"),
    "with_normalisation": ("LeNet-5 (sigmoid) with batch normalisation", "LeNet-5（sigmoid），有批量归一化"),
    "without_normalisation": ("the same without batch normalisation", "同一网络，无批量归一化"),
    # cost
    "costs_title": ("Accuracy against multiply-adds", "准确率与乘加次数"),
    "costs_axis": ("multiply-adds for one image (log scale)", "每张图像的乘加次数（对数坐标）"),
    "costs_accuracy": ("test accuracy", "测试集准确率"),
    "costs_accuracy_log": (
        "test accuracy (log scale of the errors)",
        "测试集准确率（按错误率取对数坐标）",
    ),
    "costs_runs": ("single runs", "单次运行"),
    # detectors
    "test_image": ("test image {number}", "测试图像 {number}"),
    "an_object": ("an object", "目标的真实框"),
    "a_drawn_box": ("a box drawn to learn", "抽中用于训练的框"),
    "anchors_title": ("Anchors: all points, and the boxes of one of them", "锚框：所有锚点，以及其中一点的各个锚框"),
    "anchors_level": (
        "map of {size}: {count} anchors, {each} at each point",
        "特征图 {size}：{count} 个锚框，每点 {each} 个",
    ),
    "anchors_step": ("\n(every {step}th row and column of points)", "\n（行列各隔 {step} 画一点）"),
    "anchors_ratio": ("height / width = {ratio}", "高 / 宽 = {ratio}"),
    "anchors_point": ("point that anchors lie around", "锚点"),
    "proposals_title": ("Proposals before and after suppression", "非极大值抑制前后的提议区域"),
    "proposals_before": ("before: the best {shown} of {count}", "抑制前：{count} 个中最好的 {shown} 个"),
    "proposals_after": ("after: the best {shown} of {count}", "抑制后：{count} 个中最好的 {shown} 个"),
    "proposals_cover": (
        "they cover {covered} of {count} objects (IoU ≥ {iou})",
        "覆盖 {count} 个目标中的 {covered} 个（IoU ≥ {iou}）",
    ),
    "objectness": ("objectness: how surely an object, 0–1", "目标性得分：是目标的把握，0–1"),
    "matches_title": ("What both stages learn of this image", "两个阶段从这张图像中学习的内容"),
    "anchors_positive": (
        "anchors with an object: {count} of {all}, {drawn} drawn",
        "正样本锚框：{all} 个中 {count} 个，抽中 {drawn} 个",
    ),
    "anchors_negative": (
        "background: {count} of {all}, {drawn} drawn; neither: {neither}",
        "负样本锚框：{all} 个中 {count} 个，抽中 {drawn} 个；两者皆非：{neither} 个",
    ),
    "proposals_positive": (
        "proposals with an object: {count} of {all}, {drawn} drawn",
        "正样本提议区域：{all} 个中 {count} 个，抽中 {drawn} 个",
    ),
    "proposals_negative": (
        "background: {count} of {all}, {drawn} drawn; neither: {neither}",
        "负样本提议区域：{all} 个中 {count} 个，抽中 {drawn} 个；两者皆非：{neither} 个",
    ),
    "beside_title": (
        "The truth (above) and what was found (below), scores of {threshold} or more",
        "真实目标（上）与检测结果（下），得分不低于 {threshold}",
    ),
    "beside_truth": ("{name}, objects: {count}", "{name}：真实目标 {count} 个"),
    "beside_unknown": ("{name}, objects unknown", "{name}：目标未知"),
    "beside_found": ("found: {count}", "检测到 {count} 个"),
    "precision_title": ("Precision against recall at IoU {iou}", "IoU 阈值为 {iou} 时的精确率与召回率"),
    "recall_axis": ("recall (share of objects found, 0–1)", "召回率（被检测到的目标所占比例，0–1）"),
    "precision_axis": ("precision (share of detections right, 0–1)", "精确率（正确检测所占比例，0–1）"),
    "ap_iou_title": ("Average precision against the IoU that is asked for", "平均精度与所要求的 IoU 阈值"),
    "iou_axis": ("IoU with the object, at least", "IoU 阈值（与真实目标的交并比至少为）"),
    "ap_axis": ("average precision (AP, 0–1)", "平均精度（AP，0–1）"),
    "precision_boxes": ("boxes", "边界框"),
    "precision_masks": ("masks", "掩码"),
    "mean_of_classes": ("mean: {value}", "平均：{value}"),
    "lowest_classes": ("the lowest {shown} of {count} classes", "{count} 个类别中最低的 {shown} 个"),
    "absent_classes": ("no objects, not in the mean: {names}", "没有目标、不计入平均：{names}"),
    "regions_title": (
        "A detection, {wide} pixels wide and {high} high on its map ({size}, stride {stride})",
        "一个检测框：在其特征图（{size}，步幅 {stride}）上宽 {wide}、高 {high} 像素",
    ),
    "regions_pool": (
        "RoI pooling: whole pixels, {pixels},\nthe largest value in each of {bins} bins",
        "RoI 池化：取整为 {pixels} 像素，\n{bins} 个单元各取最大值",
    ),
    "regions_align": (
        "RoI align: nothing rounded,\nthe mean of {samples} samples in each of {bins} bins",
        "RoI 对齐：不取整，\n{bins} 个单元各取 {samples} 个采样点的平均值",
    ),
    "regions_box": ("the box on the map", "特征图上的检测框"),
    "regions_bin": ("a bin", "单元"),
    "regions_sample": ("a sample", "采样点"),
    "no_detection": (
        "No regions to draw: nothing was detected in {name}.",
        "没有可绘制的区域：在{name}中没有检测到任何目标。",
    ),
    "map_column": ("column of the map", "特征图的列"),
    "map_row": ("row of the map", "特征图的行"),
}

LAYERS_ZH = {
    "Linear": "全连接层",
    "Conv2d": "卷积层",
    "AvgPool2d": "平均池化",
    "MaxPool2d": "最大池化",
    "AdaptiveAvgPool2d": "自适应平均池化",
    "BatchNorm2d": "批量归一化",
    "BatchNorm1d": "批量归一化",
    "AdaptiveMaxPool2d": "自适应最大池化",
}

FASHION_ZH = {
    "t-shirt": "T恤",
    "t-shirt/top": "T恤",
    "trouser": "裤子",
    "pullover": "套衫",
    "dress": "连衣裙",
    "coat": "外套",
    "sandal": "凉鞋",
    "shirt": "衬衫",
    "sneaker": "运动鞋",
    "bag": "包",
    "ankle boot": "短靴",
}

# In order of preference: simplified Chinese sans-serif faces first, then any face that has the characters.
CJK_FAMILIES = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "Source Han Sans CN",
    "Microsoft YaHei",
    "PingFang SC",
    "Hiragino Sans GB",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "SimHei",
    "Heiti SC",
    "STHeiti",
    "Noto Sans CJK TC",
    "Noto Sans CJK HK",
    "Noto Sans CJK JP",
    "Noto Sans CJK KR",
    "Heiti TC",
    "Arial Unicode MS",
    "Droid Sans Fallback",
    "Noto Serif CJK SC",
    "Noto Serif CJK JP",
    "SimSun",
    "Songti SC",
    "AR PL UMing CN",
)
CJK_FILE_NAMES = ("cjk", "wqy", "sourcehan", "notosanssc", "droidsansfallback", "uming")

logger = logging.getLogger("byhand.plots")
noticed = False


def known_language(lang: str) -> str:
    """The language's own code, "en" or "zh".

    Raises:
        UnknownName: any other.
    """
    if lang not in LANGUAGES:
        raise unknown_name("language", str(lang), LANGUAGES)
    return lang


def writable_language(lang: str) -> str:
    """The language to write a picture in: `lang`, or "en" with one notice a process where no font can write Chinese.

    Raises:
        UnknownName: neither "en" nor "zh".
    """
    global noticed
    if known_language(lang) == "zh" and cjk_family() is None:
        if not noticed:
            logger.warning(
                "no font for Chinese found, so the pictures are in English; "
                "install one (Debian, Ubuntu: apt-get install fonts-noto-cjk) for lang 'zh'"
            )
            noticed = True
        return "en"
    return lang


def word(key: str, lang: str, **values: object) -> str:
    """The text of `key` in the language, with its values filled in."""
    return WORDS[key][LANGUAGES.index(lang)].format(**values)


def layer_word(kind: str, lang: str) -> str:
    """What a layer's class is called in a picture: torch's name, or Chinese where the field has a word for it."""
    return LAYERS_ZH.get(kind, kind) if lang == "zh" else kind


def class_words(class_names: Sequence[str], count: int, lang: str) -> list[str]:
    """`count` class names ready for a picture: numbers where names are missing, Fashion-MNIST's in Chinese if asked."""
    names = [str(name) for name in class_names] + [str(index) for index in range(len(class_names), count)]
    if lang == "zh":
        names = [FASHION_ZH.get(name.lower(), name) for name in names]
    return [name.replace("$", r"\$") for name in names]  # a pair of dollars would be read as a formula


def cjk_family() -> str | None:
    """The best installed font family that can write Chinese, or None."""
    from matplotlib import font_manager

    known = {font.name for font in font_manager.fontManager.ttflist}
    if known.isdisjoint(CJK_FAMILIES):
        # matplotlib keeps a list of fonts from its first run, and does not see what was installed since.
        for path in font_manager.findSystemFonts():
            if any(part in Path(path).name.lower().replace("-", "") for part in CJK_FILE_NAMES):
                font_manager.fontManager.addfont(path)
        known = {font.name for font in font_manager.fontManager.ttflist}
    return next((family for family in CJK_FAMILIES if family in known), None)


def font_families(lang: str) -> list[str]:
    """Font families to write with, first choice first.

    In Chinese the CJK font leads: text beside a formula is written in the first family alone.
    """
    family = cjk_family()
    if family is None:
        return ["DejaVu Sans"]
    return [family, "DejaVu Sans"] if lang == "zh" else ["DejaVu Sans", family]
