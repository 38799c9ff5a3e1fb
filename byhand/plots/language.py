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
    "validation": ("held out, last {last}", "留出集，末轮 {last}"),
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
